"""Dictionaries that come with digsite, for `digsite/tinyworld`: an SAE and a transcoder for each layer, and one CLT.

`digsite.dictionaries.load("digsite/tinyworld/sae-2")` reads one; `weights/README.md` is their card.
"""

from digsite.dictionaries.tinyworld.training import Training as Training
from digsite.dictionaries.tinyworld.training import make as make
from digsite.dictionaries.tinyworld.training import texts as texts
