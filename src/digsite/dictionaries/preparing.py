"""The start of training: a new dictionary gets its scales, first numbers and biases from what it will read.

1. Each column's scale is set from its statistics.
2. Decoders and encoders are drawn (`initialise`).
3. The written bias is the mean of the column; where a skip is read, it is zero at first and changes nothing.
4. Encoder biases are set so that each latent fires on a wished share of some rows, where the recipe says so.

A dictionary that has numbers already keeps them all.
"""

import math
from dataclasses import replace
from itertools import islice

import torch

from digsite._core.errors import BadInput, NotFinite, ShapeMismatch, explain
from digsite.dictionaries.config import Column
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.initial import initialise
from digsite.dictionaries.recipes import Recipe
from digsite.store import Rows, Source, Statistics

_SAMPLE = 8192
"""Rows on which the share of rows in which a latent fires is set."""
_LATENTS = 1024
"""Latents for which that is done at one time."""


def prepare(dictionary: Dictionary, recipe: Recipe, source: Source, *, seed: int) -> Dictionary:
    """Give a new dictionary its first numbers, in place.

    Args:
        dictionary: All zeros, as made; one with other numbers is only checked.
        recipe: How it starts.
        source: What it will read.
        seed: Of the draw.

    Raises:
        BadInput: The source lacks a column, or one is constant.
        ShapeMismatch: A column has another width.
        NotFinite: A column has a NaN or an infinity.
    """
    known = {name: _checked(name, column, source) for name, column in dictionary.config.columns.items()}
    if any(W.any() for block in dictionary.blocks for W in block.W_enc):
        return dictionary
    columns = {
        name: replace(column, scale=_scale(recipe, known[name])) for name, column in dictionary.config.columns.items()
    }
    dictionary.config = replace(dictionary.config, columns=columns)  # 1.
    initialise(dictionary, seed=seed, length=recipe.start.length, gain=recipe.start.gain)  # 2.
    with torch.no_grad():
        if recipe.start.centre:
            for name in dictionary.writes:
                dictionary.bias(name).copy_(known[name].mean / columns[name].scale)  # 3.
        if recipe.start.firing is not None:
            _fire(dictionary, recipe.start.firing, _first(source))  # 4.
    return dictionary


def _checked(name: str, column: Column, source: Source) -> Statistics:
    if name not in source.widths:
        asked = f"The dictionary needs the column {name}"
        raise BadInput(explain(asked, possible=list(source.widths), near=name))
    if source.widths[name] != column.width:
        asked = f"The dictionary takes {name} as rows of {column.width} numbers"
        raise ShapeMismatch(explain(asked, found=f"{source.widths[name]}", do="Use a dictionary made for this site"))
    found = source.statistics(name)
    if not math.isfinite(found.rms):
        raise NotFinite(explain(f"The column {name} has a NaN or an infinity", do="Look where it arises"))
    if found.variance <= 1e-12 * found.rms**2:
        asked = f"The column {name} is constant, so that there is nothing to learn"
        raise BadInput(explain(asked, found=f"variance {found.variance:.3g}, rows of length {found.norm:.3g}"))
    return found


def _scale(recipe: Recipe, known: Statistics) -> float:
    match recipe.scale:
        case "unit":
            return known.rms
        case "sqrt_d":
            return known.norm / math.sqrt(len(known.mean))
        case "none":
            return 1.0


def _fire(dictionary: Dictionary, firing: int, rows: Rows) -> None:
    """Biases such that each latent's pre-activation is above its threshold in the wished share of rows."""
    for block in dictionary.blocks:
        share = min(0.5, firing / block.config.latents)
        x = torch.cat(dictionary.inputs(block, rows.to(block.b_enc.device, torch.float32)), 1)
        parts = torch.cat(list(block.W_enc), 1).split(_LATENTS)  # not all pre-activations at once
        high = torch.cat([(x @ part.T).quantile(1 - share, dim=0) for part in parts])
        block.b_enc.copy_(getattr(block, "threshold", 0.0) - high)


def _first(source: Source) -> Rows:
    """Some rows, from the beginning."""
    parts, count = [], 0
    for rows in islice(source.chunks(), _SAMPLE):
        parts.append(rows)
        count += rows.count
        if count >= _SAMPLE:
            break
    return Rows.join(parts).take(slice(0, _SAMPLE))
