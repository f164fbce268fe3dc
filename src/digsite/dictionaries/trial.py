"""One pass over held-out text in which several dictionaries are tried on the same rows.

1. The model runs without edits: the rows of every column, and what it predicts by itself.
2. Each dictionary encodes and decodes these rows.
3. Each is spliced in at each place, and the model runs again.
4. References: the same places with zero, and with the mean, in the place of what is there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite._core.numerics import require_finite
from digsite.dictionaries.baselines import shuffled
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.firing import Firing
from digsite.dictionaries.reconstruction import Reconstructing, Reconstruction
from digsite.dictionaries.splice import Kept, encoded, rows_in, rows_of, site_of, splice, written
from digsite.models import Edit, Model, Run, Tokens
from digsite.models.prediction import cross_entropy, divergence, predicted
from digsite.store import Rows

Models = Mapping[str, Model]
"""The models that columns name; a single one has the name ""."""


@dataclass(frozen=True, eq=False)
class Tried:
    """A dictionary that is tried.

    Attributes:
        name: What it is called in the result.
        dictionary: The dictionary.
        kept: Of every block, which latents may fire; None for all.
        shuffled: It is given shuffled rows, and not spliced in.
    """

    name: str
    dictionary: Dictionary
    kept: Kept | None = None
    shuffled: bool = False


@dataclass(frozen=True, eq=False)
class Place:
    """Columns of one model that are replaced together.

    Attributes:
        name: How it is called in the result.
        model: The name of the model.
        columns: What is replaced.
    """

    name: str
    model: str
    columns: tuple[str, ...]


@dataclass(eq=False)
class Trial:
    """What came of one dictionary.

    Attributes:
        reconstruction: How near it comes.
        firing: On which tokens its latents fire.
        l0: Latents that fire, mean over the rows of each sequence.
        loss: Cross-entropy with it spliced in, for each place, nats per token; NaN where it was not spliced in.
        kl: KL from the model by itself.
    """

    reconstruction: Reconstruction
    firing: Firing
    l0: Float[Tensor, " example"]
    loss: Float[Tensor, "place example"]
    kl: Float[Tensor, "place example"]


@dataclass(eq=False)
class References:
    """What the model predicts without any dictionary, nats per token.

    Attributes:
        clean: By itself.
        zero: With zero in each place.
        mean: With the mean.
        rows: Rows of each sequence.
    """

    clean: Float[Tensor, "place example"]
    zero: Float[Tensor, "place example"]
    mean: Float[Tensor, "place example"]
    rows: Int[Tensor, " example"]


def places_of(dictionary: Dictionary) -> list[Place]:
    """Of each model that is written, all columns at once; and where there are several, each alone."""
    names = dict.fromkeys(name.rpartition(":")[0] for name in dictionary.writes)
    found = []
    for model in names:
        columns = tuple(name for name in dictionary.writes if name.rpartition(":")[0] == model)
        if len(columns) > 1:
            found.append(Place("all" if len(names) == 1 else f"{model}: all", model, columns))
        found += [Place(column, model, (column,)) for column in columns]
    return found


def runs_of(models: Models, columns: Iterable[str], tokens: Tokens, *, logits: bool) -> dict[str, Run]:
    """A run of every model that read the columns that are its own."""
    wanted = list(dict.fromkeys(columns))
    found = {}
    for name, model in models.items():
        reads = [site_of(column) for column in wanted if column.rpartition(":")[0] == name]
        found[name] = model.run(tokens, read=reads, logits="all" if logits else None)
    return found


def rows_beside(runs: Mapping[str, Run], columns: Iterable[str], where: Bool[Tensor, "batch pos"]) -> Rows:
    """The rows of columns of several models, side by side."""
    found: dict[str, Tensor] = {}
    for column in dict.fromkeys(columns):
        found[column] = require_finite(column, rows_of(runs[column.rpartition(":")[0]], [column], where)[column])
    return Rows(found, ids=next(iter(runs.values())).tokens.ids[where])


@dataclass(eq=False)
class _Sums:
    """What of one dictionary is being added up."""

    reconstructing: Reconstructing
    firing: Firing
    l0: list[Tensor] = field(default_factory=list)
    loss: list[Tensor] = field(default_factory=list)
    kl: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def try_all(
    models: Models,
    several: Sequence[Tried],
    batches: Iterable[Tokens],
    means: Mapping[str, Float[Tensor, " d"]],
    *,
    seed: int = 0,
) -> tuple[list[Trial], References]:
    """Tries dictionaries that write the same columns on the same text.

    Args:
        models: The models that columns name.
        several: The dictionaries.
        batches: The text.
        means: The mean of every written column, for the reference.
        seed: Of the shuffling.
    """
    first = several[0].dictionary
    places, generator = places_of(first), torch.Generator().manual_seed(seed)
    columns = [name for one in several for name in (*one.dictionary.reads, *one.dictionary.writes)]
    sums = [_Sums(Reconstructing(first.writes), Firing(one.dictionary.width)) for one in several]
    references: list[Tensor] = []
    counts: list[Tensor] = []
    for tokens in batches:
        where = rows_in(tokens)
        runs = runs_of(models, columns, tokens, logits=True)  # 1.
        rows = rows_beside(runs, columns, where)
        example = where.nonzero()[:, 0]
        own = {name: predicted(run.logits) for name, run in runs.items()}
        counts.append(torch.bincount(example, minlength=len(tokens)))
        for one, total in zip(several, sums, strict=True):
            given = Rows(shuffled(rows, generator), rows.ids) if one.shuffled else rows
            made = _tally(one, total, given, example, len(tokens))  # 2.
            spliced = [_spliced(models, one, place, tokens, made, own) for place in places]  # 3.
            loss, kl = torch.stack(spliced, 1).cpu()
            total.loss.append(loss)
            total.kl.append(kl)
        references.append(_references(models, places, tokens, own, means))  # 4.
    clean, zero, mean = torch.cat(references, 2)
    done = [
        Trial(one.reconstructing.done(), one.firing, *(torch.cat(x, -1) for x in (one.l0, one.loss, one.kl)))
        for one in sums
    ]
    return done, References(clean, zero, mean, torch.cat(counts))


def _tally(one: Tried, total: _Sums, rows: Rows, example: Tensor, count: int) -> dict[str, Tensor]:
    like = one.dictionary.b_dec[0]
    near = rows.to(like.device, like.dtype)
    latents = encoded(one.dictionary, near, one.kept)
    made = one.dictionary.decode(latents, near)
    total.reconstructing.add(dict(rows), made, example, count)
    assert rows.ids is not None
    total.firing.add(latents, rows.ids)
    fires = sum((block.count() for block in latents), torch.zeros((), dtype=torch.long)).double().cpu()
    every = torch.bincount(example, minlength=count)
    total.l0.append(torch.zeros(count, dtype=torch.float64).index_add_(0, example, fires) / every)
    return made


def _spliced(
    models: Models, one: Tried, place: Place, tokens: Tokens, made: dict[str, Tensor], own: Mapping[str, Tensor]
) -> Float[Tensor, "2 example"]:
    """Loss and KL with the dictionary in a place."""
    if one.shuffled:
        return torch.full((2, len(tokens)), torch.nan)
    if _live(one.dictionary):
        edits = splice(one.dictionary, tokens, columns=place.columns, kept=one.kept)
    else:
        values = {name: partial(_given, made[name]) for name in place.columns}
        edits = written(values, rows_in(tokens))
    said = predicted(models[place.model].run(tokens, edits=edits).logits)
    return torch.stack([cross_entropy(said, tokens), divergence(own[place.model], said, tokens)]).cpu()


def _live(dictionary: Dictionary) -> bool:
    """Whether every block reads one column, of the one model there is."""
    return all(len(block.config.reads) == 1 and ":" not in block.config.reads[0] for block in dictionary.blocks)


def _references(
    models: Models, places: Sequence[Place], tokens: Tokens, own: Mapping[str, Tensor], means: Mapping[str, Tensor]
) -> Float[Tensor, "3 place example"]:
    where, found = rows_in(tokens), []
    for place in places:
        zero: list[Edit] = written(dict.fromkeys(place.columns, torch.zeros_like), where)
        mean: list[Edit] = written({name: partial(_broadcast, means[name]) for name in place.columns}, where)
        said = [own[place.model], *(predicted(models[place.model].run(tokens, edits=e).logits) for e in (zero, mean))]
        found.append(torch.stack([cross_entropy(each, tokens).cpu() for each in said]))
    return torch.stack(found, 1)


def _given(made: Tensor, x: Tensor) -> Tensor:
    return made


def _broadcast(mean: Tensor, x: Tensor) -> Tensor:
    return mean.to(x.device, x.dtype).expand_as(x)
