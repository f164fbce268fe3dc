"""The card of the dictionaries that come with digsite, written by their training itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import torch
import transformers

from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.evaluation import DICTIONARY, RANDOM, WITHOUT, DictionaryEvaluation
from digsite.dictionaries.splice import encoded, rows_in, rows_of
from digsite.models import Model

SHOWN = ("sae-2", "transcoder-1")
"""Dictionaries of which some latents are shown."""
_FEWEST = 10

_TEXT = """---
license: mit
library_name: digsite
tags: [interpretability, toy, sparse-dictionary]
---
# Dictionaries of digsite/tinyworld

For each of its four layers an SAE of the stream (`sae-0` … `sae-3`, at `layers.*.resid_post`) and a transcoder
(`transcoder-0` … `transcoder-3`, from `layers.*.mlp.norm` to `layers.*.mlp.out`), and one cross-layer transcoder
(`clt`) over all layers; half precision. `digsite.dictionaries.load("digsite/tinyworld/sae-2")` reads one.

## Training
`python -m digsite.dictionaries.tinyworld FOLDER --seed {seed}`

{settings}

## Held-out table
On {judged} documents, none of which was learned from; baselines are fitted on {judged} others. FVU: fraction of the
variance that is unexplained, with a 95 % interval. Recovered: share of the loss that comes back when it is spliced in,
of what zero ablation (and mean ablation) of the same places costs. Single: latents with 90 % of their mass on one
token, of those that fire ten times. Of the CLT: all layers together, all MLPs replaced at once.

{table}

## What it has to beat: FVU
{fvu}

## What it has to beat: loss recovered
{recovered}

The random-weights model is tinyworld with the entries of every weight matrix shuffled, and the dictionary one that was
trained on it in the same way; its loss says nothing about language, so its loss recovered is not compared.

{lost}

## What some latents fire on
Drawn by chance among those that fire at least {fewest} times in the held-out documents, not chosen. Tokens: those with
the largest shares of a latent's mass. Strongest: the document in which it is strongest, the token in double brackets.

{latents}
"""


@dataclass(frozen=True, kw_only=True)
class Fires:
    """On what a latent fires.

    Attributes:
        latent: Its number.
        density: In which fraction of the rows.
        tokens: The tokens with most of its mass, with their shares.
        strongest: The text in which it is strongest.
    """

    latent: int
    density: float
    tokens: tuple[tuple[str, float], ...]
    strongest: str


@torch.no_grad()
def fires_on(model: Model, dictionary: Dictionary, texts: list[str], *, count: int = 8, seed: int = 0) -> list[Fires]:
    """On what some latents fire, drawn by chance among those that fire often enough.

    Args:
        model: Whose activations are read.
        dictionary: Of one block.
        texts: Documents.
        count: How many latents.
        seed: Of the draw.
    """
    tokens = model.tokens(texts)
    where = rows_in(tokens)
    rows = rows_of(model.run(tokens, read=dictionary.reads, logits=None), dictionary.reads, where)
    values = encoded(dictionary, rows)[0].dense()
    there = ((values > 0).sum(0) >= _FEWEST).nonzero()[:, 0]
    drawn = there[torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))[:count]].sort().values
    ids, places, found = tokens.ids[where], where.nonzero(), []
    for latent in drawn.tolist():
        mass = torch.zeros(model.d_vocab).index_add_(0, ids, values[:, latent])
        top = (mass / mass.sum()).topk(3)
        example, at = places[int(values[:, latent].argmax())].tolist()
        found.append(
            Fires(
                latent=latent,
                density=float((values[:, latent] > 0).float().mean()),
                tokens=tuple(
                    (model.tokenizer.decode([one]), share)
                    for one, share in zip(top.indices.tolist(), top.values.tolist(), strict=True)
                    if share > 0
                ),
                strongest=_marked(model, tokens.ids[example][tokens.mask[example]].tolist(), at),
            )
        )
    return found


def card(
    settings: Mapping[str, Any],
    judged: Mapping[str, DictionaryEvaluation],
    shown: Mapping[str, list[Fires]],
    *,
    cpu_seconds: float,
) -> str:
    """The card as Markdown.

    Args:
        settings: Of the training, by name.
        judged: What was found of each dictionary.
        shown: What some latents of some dictionaries fire on.
        cpu_seconds: Processor time of all threads.
    """
    head = "| dictionary | L0 | FVU | interval | recovered | of mean ablation | KL | never fire | single |"
    told = {name: value for name, value in settings.items() if name not in ("seed", "judged")}
    said = ", ".join(f"{name} {value:,}" for name, value in told.items()).capitalize()
    said += (
        ". TopK with AuxK (`TOPK`, `TRANSCODER`), all on one stream of rows; documents as in the model's own training, "
        f"of other seeds. Processor time, this card included: {cpu_seconds / 60:.0f} minutes; torch "
        f"{torch.__version__}, transformers {transformers.__version__}."
    )
    fvu = {name: dict(zip(one.judged, one.fvu().tolist(), strict=True)) for name, one in judged.items()}
    recovered = {
        name: dict(zip(one.judged, one.recovered()[:, 0].tolist(), strict=True)) for name, one in judged.items()
    }
    for shares in recovered.values():
        shares.pop(RANDOM, None)
    return _TEXT.format(
        seed=settings["seed"],
        judged=settings["judged"],
        settings=fill(said, 120),
        table="\n".join([head, "|---" * 9 + "|", *(_row(name, one) for name, one in judged.items())]),
        fvu=_beside(fvu),
        recovered=_beside(recovered),
        lost=fill(f"{_lost('FVU', fvu, -1)} {_lost('loss recovered', recovered, 1)}", 120),
        fewest=_FEWEST,
        latents="\n\n".join(_latents(name, some) for name, some in shown.items()),
    )


def _row(name: str, one: DictionaryEvaluation) -> str:
    row = one.to_frame().filter(judged=DICTIONARY, place=one.places[0]).row(0, named=True)
    return (
        f"| {name} | {row['l0']:.1f} | {row['fvu']:.3f} | {row['fvu_low']:.3f} to {row['fvu_high']:.3f} "
        f"| {row['recovered']:.3f} | {row['over_mean']:.3f} | {row['kl']:.3f} | {row['dead']:.1%} "
        f"| {row['single_token']:.1%} |"
    )


def _lost(what: str, each: Mapping[str, Mapping[str, float]], better: int) -> str:
    """Which dictionaries a baseline equals or beats."""
    found = []
    for name, numbers in each.items():
        others = {other: value for other, value in numbers.items() if other not in (DICTIONARY, WITHOUT)}
        by = [other for other, value in others.items() if (value - numbers[DICTIONARY]) * better >= 0]
        found += [f"{name} by {' and '.join(by)}"] if by else []
    return f"In {what} beaten: {'; '.join(found)}." if found else f"In {what} no baseline is as good."


def _beside(each: Mapping[str, Mapping[str, float]]) -> str:
    """Dictionaries down, what was judged beside them across."""
    names = list(dict.fromkeys(what for one in each.values() for what in one))
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for name, one in each.items():
        cells = (f"{one[what]:.3f}" if what in one and one[what] == one[what] else "–" for what in names)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _latents(name: str, some: list[Fires]) -> str:
    lines = [f"### {name}", "| latent | fires in | tokens | strongest |", "|---|---|---|---|"]
    for one in some:
        tokens = ", ".join(f"{token.strip()} {share:.0%}" for token, share in one.tokens)
        lines.append(f"| {one.latent} | {one.density:.1%} | {_cell(tokens)} | {_cell(one.strongest)} |")
    return "\n".join(lines)


def _marked(model: Model, ids: list[int], at: int) -> str:
    before, token, after = (model.tokenizer.decode(part) for part in (ids[1:at], [ids[at]], ids[at + 1 :]))
    return f"{before} [[{token.strip()}]] {after}".strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
