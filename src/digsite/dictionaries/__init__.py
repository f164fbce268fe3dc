"""Sparse dictionaries: SAEs, transcoders, crosscoders, cross-layer transcoders and their kin, trained, judged, exchanged."""
