"""Dictionaries to and from other libraries, compared with what those libraries make of the same files."""
