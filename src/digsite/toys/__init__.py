"""Models whose answers are known: what comes with digsite, what is trained on the spot, and compiled programs."""

from digsite.toys.catalog import Toy as Toy
from digsite.toys.catalog import builtin as builtin
from digsite.toys.catalog import train as train
from digsite.toys.catalog import zoo as zoo
