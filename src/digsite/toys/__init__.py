"""Models whose answers are known: `digsite.load("digsite/tinyworld")`, and how to train it again."""

from digsite.toys.catalog import Toy as Toy
from digsite.toys.catalog import builtin as builtin
from digsite.toys.catalog import train as train
