"""What can be read from activations: probes, and what speaks for and against them."""

from digsite.directions.probes.fits import FITS as FITS
from digsite.directions.probes.fits import Fit as Fit
from digsite.directions.probes.fits import Fitted as Fitted
from digsite.directions.probes.fits import mean_difference as mean_difference
