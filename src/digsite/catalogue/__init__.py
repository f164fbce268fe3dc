"""Which method answers which question, what it assumes, how faithful it was on known circuits, and what it costs.

Nothing here imports torch or runs a model: the catalogue is read from the package's own source, from one table an
entry, and from two files of measurements. It answers on a plane.
"""

from digsite.catalogue.costs import Law
from digsite.catalogue.entries import Entry, entries
from digsite.catalogue.faithfulness import Score
from digsite.catalogue.methods import Method, choose, find, methods
from digsite.catalogue.page import method_page, methods_page
from digsite.catalogue.source import Documented, documented
from digsite.catalogue.terms import Term, define, glossary
from digsite.catalogue.vocabulary import BRANCHES, EVIDENCE, LEVELS

__all__ = [
    "BRANCHES",
    "EVIDENCE",
    "LEVELS",
    "Documented",
    "Entry",
    "Law",
    "Method",
    "Score",
    "Term",
    "choose",
    "define",
    "documented",
    "entries",
    "find",
    "glossary",
    "method_page",
    "methods",
    "methods_page",
]
