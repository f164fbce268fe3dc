"""A vector at a site: read as a probe, written as an edit, found, compared and kept."""

from digsite.directions.direction import UNITS as UNITS
from digsite.directions.direction import Direction as Direction
from digsite.directions.direction import Scale as Scale
from digsite.directions.files import load as load
from digsite.directions.files import load_direction as load_direction
from digsite.directions.files import save as save
from digsite.directions.from_weights import token_direction as token_direction
from digsite.directions.labelled import Labelled as Labelled
from digsite.directions.labelled import labelled_rows as labelled_rows
from digsite.directions.labelled import task_rows as task_rows
from digsite.directions.measuring import measured as measured
from digsite.directions.measuring import scale_along as scale_along
from digsite.directions.subspace import Subspace as Subspace
