"""Dictionaries of other libraries: read, written, and shown to a benchmark; one module a format."""

from digsite.dictionaries.exchange.door import FORMATS as FORMATS
from digsite.dictionaries.exchange.door import read_dictionary as read_dictionary
from digsite.dictionaries.exchange.door import write_dictionary as write_dictionary
from digsite.dictionaries.exchange.folding import folded as folded
from digsite.dictionaries.exchange.saebench import saebench_view as saebench_view
