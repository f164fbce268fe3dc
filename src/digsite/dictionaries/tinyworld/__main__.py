"""`python -m digsite.dictionaries.tinyworld FOLDER`: the dictionaries of `digsite/tinyworld`, made again."""

import argparse
from dataclasses import replace

import torch

from digsite.dictionaries.tinyworld.training import Training, make

parser = argparse.ArgumentParser(prog="python -m digsite.dictionaries.tinyworld", description=__doc__)
parser.add_argument("folder", help="where they and their card are written")
parser.add_argument("--seed", type=int, default=0, help="of the documents and of all that is drawn")
asked = parser.parse_args()
torch.set_num_threads(1)
make(asked.folder, replace(Training(), seed=asked.seed))
