"""Toys that are trained on the spot, each with a known answer that is checked after training."""

from digsite.toys.trained.toy import Findings as Findings
from digsite.toys.trained.toy import TrainedToy as TrainedToy
