"""A small trained transformer and the closed world it was trained on.

`world` is what is true and what can be said, `vocabulary` its words, `documents` the training data, `training` how the
model is made, `evaluation` how well it knows combinations that it never saw.
"""

from digsite.toys.tinyworld.evaluation import Score as Score
from digsite.toys.tinyworld.evaluation import evaluate as evaluate
from digsite.toys.tinyworld.families import FAMILIES as FAMILIES
from digsite.toys.tinyworld.training import Training as Training
from digsite.toys.tinyworld.training import train as train
from digsite.toys.tinyworld.vocabulary import tokenizer as tokenizer
from digsite.toys.tinyworld.vocabulary import vocabulary as vocabulary
from digsite.toys.tinyworld.world import Family as Family
from digsite.toys.tinyworld.world import held_out as held_out
