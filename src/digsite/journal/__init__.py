"""A working folder that remembers runs, failures, findings and hours."""

from digsite.journal.comparing import Comparison as Comparison
from digsite.journal.comparing import compare as compare
from digsite.journal.dig import Dig as Dig
from digsite.journal.records import RunRecord as RunRecord
from digsite.journal.searching import Hit as Hit
