"""A two-layer transformer of attention alone that goes on with what it has seen once: how induction heads come about.

A row is a segment of random tokens, none of them twice, over and over. So from the second time on what comes next can
be foretold, and in the first it cannot. Segments have any length from 8 to 24: looking back by a fixed distance does
not help. What helps takes two heads, one after the other:

1. A head of layer 0 looks at the position before, and writes which token was there (previous-token head). It needs to
   do so in the first copy only, and further on it learns to look elsewhere.
2. A head of layer 1 asks: which position follows a token like mine? It looks there, at the token that came after this
   one the first time, and copies it (induction head).

Either is useless without the other. So for a while nothing is learned, and then all at once.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Olsson et al. 2022, "In-context
Learning and Induction Heads", arXiv:2209.11895, where the scores of heads and the sudden fall of the loss are from. The
norms of ours divide by a constant.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from digsite._core.cost import measure
from digsite._core.recording import method
from digsite.models import Model, ablate, load
from digsite.toys.trained.claims import at_least, at_most, findings
from digsite.toys.trained.networks import adamw, along_training, small_gpt2
from digsite.toys.trained.toy import Findings, TrainedToy
from digsite.toys.training import Recipe, Trained, warm_cosine

VOCAB, LENGTH = 32, 48
SHORTEST, LONGEST = 8, 24
LAYERS, HEADS = 2, 2
STEPS, ROWS = 2000, 64


@dataclass(frozen=True, eq=False)
class Repeats:
    """Rows in which a segment comes again and again.

    Attributes:
        ids: The tokens.
        period: How long the segment of each row is.
    """

    ids: Int[Tensor, "batch pos"]
    period: Int[Tensor, " batch"]

    @property
    def known(self) -> Bool[Tensor, "batch pos"]:
        """Where the next token has come after this one before: from the second copy on, but for the last position."""
        at = torch.arange(LENGTH)
        return (at >= self.period[:, None]) & (at < LENGTH - 1)


def repeats(rng: np.random.Generator, rows: int) -> Repeats:
    """Rows drawn at random."""
    period = rng.integers(SHORTEST, LONGEST + 1, rows)
    segment = rng.permuted(np.tile(np.arange(VOCAB), (rows, 1)), axis=1)
    ids = np.take_along_axis(segment, np.arange(LENGTH) % period[:, None], axis=1)
    return Repeats(torch.from_numpy(ids), torch.from_numpy(period))


def known_losses(logits: Float[Tensor, "batch pos vocab"], rows: Repeats) -> Float[Tensor, " place"]:
    """Loss in nats of every token that can be foretold.

    Args:
        logits: At all positions.
        rows: What was run.
    """
    row, at = rows.known.nonzero(as_tuple=True)
    return cross_entropy(logits[row, at], rows.ids[row, at + 1], reduction="none")


def recipe(seed: int, steps: int | None = None) -> Recipe:
    """How it is trained: on the tokens that can be foretold."""
    steps = STEPS if steps is None else steps

    def loss(network: Any, step: int) -> Tensor:
        rows = repeats(np.random.default_rng([seed, step]), ROWS)
        return known_losses(network(input_ids=rows.ids).logits, rows).mean()

    return Recipe(
        name="induction",
        settings={"toy": "induction/1", "steps": steps, "seed": seed},
        steps=steps,
        seed=seed,
        network=network,
        optimiser=adamw(weight_decay=0.1),
        loss=loss,
        rate=warm_cosine(peak=4e-3, steps=steps),
        clip=1.0,
        kept=40,
    )


def network() -> Any:
    """Two layers of two heads; matrices start five times as large as GPT-2's, for the stream is much narrower."""
    made = small_gpt2(vocab=VOCAB, length=LENGTH, layers=LAYERS, heads=HEADS, width=64, norm="still")
    with torch.no_grad():
        for weight in made.parameters():
            if weight.requires_grad and weight.ndim > 1:
                weight.mul_(5)
    return made


def previous_token_scores(patterns: Float[Tensor, "layer batch head dst src"]) -> Float[Tensor, "layer head"]:
    """How much each head attends to the position before, on average over all positions but the first.

    Units: fraction of attention.

    Source: Olsson et al. 2022, "previous token heads".
    """
    return patterns.diagonal(-1, -2, -1).mean((1, 3))


def induction_scores(patterns: Float[Tensor, "layer batch head dst src"], rows: Repeats) -> Float[Tensor, "layer head"]:
    """How much each head attends, from the second copy, to the token after the first copy of the one it is at.

    The mean is over all positions of the second copy but its last, where that token is not in the first copy.

    Args:
        patterns: Attention on the rows.
        rows: What was run.

    Units: fraction of attention.

    Source: Olsson et al. 2022, "prefix matching score", here of the second copy alone.
    """
    at = torch.arange(LENGTH)
    second = (at >= rows.period[:, None]) & (at < (2 * rows.period[:, None] - 1).clamp(max=LENGTH))
    row, dst = second.nonzero(as_tuple=True)
    return patterns[:, row, :, dst, dst - rows.period[row] + 1].mean(0)


def patterns_of(model: Model, rows: Repeats) -> Float[Tensor, "layer batch head dst src"]:
    """The attention of all heads."""
    return model.run(model.tokens(rows.ids), read=["layers.*.attn.pattern"])["layers.*.attn.pattern"]


def without(model: Model, rows: Repeats, layer: int, head: int) -> tuple[float, Float[Tensor, "layer head"]]:
    """What is left when a head always writes its mean: the loss on known tokens in nats, and the induction scores."""
    tokens = model.tokens(rows.ids)
    silent = ablate(f"layers.{layer}.attn.z[{head}]", how="mean", over=tokens)
    run = model.run(tokens, edits=[silent], read=["layers.*.attn.pattern"])
    return float(known_losses(run.logits, rows).mean()), induction_scores(run["layers.*.attn.pattern"], rows)


def history(trained: Trained, rows: Repeats) -> dict[str, list[float]]:
    """What there was over the checkpoints.

    Returns:
        Series, each with one number for each checkpoint: `steps`, `loss` on known tokens in nats, and the highest
        `previous-token score` of layer 0 and `induction score` of layer 1.
    """
    series: dict[str, list[float]] = {"steps": [], "loss": [], "previous-token score": [], "induction score": []}
    for steps, network in along_training(trained):
        model = load(network)
        patterns = patterns_of(model, rows)
        series["steps"].append(float(steps))
        series["loss"].append(float(known_losses(model.run(model.tokens(rows.ids)).logits, rows).mean()))
        series["previous-token score"].append(float(previous_token_scores(patterns)[0].max()))
        series["induction score"].append(float(induction_scores(patterns, rows)[1].max()))
    return series


@method
def examine(trained: Trained, seed: int) -> Findings:
    """Measures both kinds of head, that one needs the other, and how suddenly they came."""
    with measure() as cost, torch.no_grad():
        rows = repeats(np.random.default_rng([seed, 0, 1]), 200)
        model = load(trained.network)
        series = history(trained, rows)
        logits, patterns = model.run(model.tokens(rows.ids)).logits, patterns_of(model, rows)
        right = (logits[:, :-1].argmax(-1) == rows.ids[:, 1:])[rows.known[:, :-1]]
        loss = float(known_losses(logits, rows).mean())
        previous, induction = previous_token_scores(patterns), induction_scores(patterns, rows)
        first, second = int(previous[0].argmax()), int(induction[1].argmax())
        early = float(previous_token_scores(patterns[..., :LONGEST, :LONGEST])[0, first])
        lost, scores_left = without(model, rows, 0, first)
        other, _ = without(model, rows, 0, 1 - first)
        started, ended = (_first_below(series, share * series["loss"][0]) for share in (0.9, 0.1))
    claims = [
        at_least("tokens foretold that came before", float(right.float().mean()), 0.99),
        at_most("loss on tokens that came before", loss, 0.05, "nats"),
        at_least("previous-token score of the best head of layer 0", float(previous[0, first]), 0.3),
        at_least("previous-token score of that head where a first copy can be, positions 0 to 23", early, 0.6),
        at_least("induction score of the best head of layer 1", float(induction[1, second]), 0.8),
        at_most("induction score of the best head of layer 0", float(induction[0].max()), 0.1),
        at_least("loss without the previous-token head", lost, 1.5, "nats"),
        at_most("induction score without the previous-token head", float(scores_left[1].max()), 0.3),
        at_most("loss without the other head of layer 0, by loss without the previous-token head", other / lost, 0.5),
        at_least("steps before the loss falls by a tenth", started, 50.0, "steps"),
        at_most("steps until nine tenths are gone, by steps before one is", ended / started, 5.0, "×"),
    ]
    curves = {name: (series["steps"], values) for name, values in series.items() if name != "steps"}
    return findings("induction", claims, curves, seed=seed, cost=cost)


def _first_below(series: dict[str, list[float]], bound: float) -> float:
    """The steps of the first checkpoint below the bound; NaN, which holds no claim, where none is."""
    reached = (steps for steps, loss in zip(series["steps"], series["loss"], strict=True) if loss < bound)
    return next(reached, float("nan"))


TOY = TrainedToy(
    name="induction",
    description="A two-layer GPT-2 of attention alone, without norm, that goes on with segments it has seen once.",
    cpu_minutes=0.8,
    recipe=recipe,
    examine=examine,
)
