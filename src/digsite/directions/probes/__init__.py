"""What can be read from activations: probes, and what speaks for and against them."""

from digsite.directions.probes.attention import AttentionProbe as AttentionProbe
from digsite.directions.probes.attention import attention_probe as attention_probe
from digsite.directions.probes.ccs import ContrastProbe as ContrastProbe
from digsite.directions.probes.ccs import ccs as ccs
from digsite.directions.probes.ccs import contrast_probe as contrast_probe
from digsite.directions.probes.classes import ClassProbe as ClassProbe
from digsite.directions.probes.classes import class_probe as class_probe
from digsite.directions.probes.fits import FITS as FITS
from digsite.directions.probes.fits import Fit as Fit
from digsite.directions.probes.fits import Fitted as Fitted
from digsite.directions.probes.fits import lda as lda
from digsite.directions.probes.fits import logistic as logistic
from digsite.directions.probes.fits import mass_mean as mass_mean
from digsite.directions.probes.fits import mean_difference as mean_difference
from digsite.directions.probes.fits import ridge as ridge
from digsite.directions.probes.pairs import pca_of_pairs as pca_of_pairs
from digsite.directions.probes.probe import ProbeResult as ProbeResult
from digsite.directions.probes.probe import probe as probe
from digsite.directions.probes.regression import NumberProbe as NumberProbe
from digsite.directions.probes.regression import number_probe as number_probe
from digsite.directions.probes.sparse import sparse as sparse
from digsite.directions.probes.sweep import STREAM as STREAM
from digsite.directions.probes.sweep import ProbeSweep as ProbeSweep
from digsite.directions.probes.sweep import probe_sweep as probe_sweep
from digsite.directions.probes.sweep import task_sweep as task_sweep
