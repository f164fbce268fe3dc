"""Methods against known answers."""
