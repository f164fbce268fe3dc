"""Changing what a model does on purpose: switching a part off, and writing that into a copy of its weights."""

from digsite.editing.baking import Baked as Baked
from digsite.editing.baking import bake as bake
from digsite.editing.baking import unbake as unbake
from digsite.editing.cuts import node_edits as node_edits
from digsite.editing.surgery import Change as Change
from digsite.editing.surgery import Surgery as Surgery
from digsite.editing.surgery import disable as disable
