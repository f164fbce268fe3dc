"""What the stream would say if it ended earlier."""

from digsite.lenses.logit_lens import LogitLens as LogitLens
from digsite.lenses.logit_lens import logit_lens as logit_lens
