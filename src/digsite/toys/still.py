"""Layer norms that do nothing, in models whose architecture cannot leave them out."""

STILL = 1e8
"""An epsilon beside which the variance of a toy's stream is less than float32 can tell: the norm divides by 1e4,
whatever comes in, and a gain of 1e4 undoes it. Centring stays; it costs one direction of the stream."""
