"""A one-head transformer that finds the largest number of a list, and how it does it.

Rows are `n₁ n₂ n₃ n₄ =`; after `=` comes the largest number. One layer, one head, no MLP, no norm, so that the whole
model is two tables:

1. The score that `=` gives to a number grows with the number (the QK circuit).
2. So attention goes to the largest number, which the head copies to the answer (the OV circuit).

Source: the task and the two circuits are those of Gross et al. 2024, "Compact proofs of model performance via
mechanistic interpretability", arXiv:2406.11779, section 3. They ask at the last number; we ask at a token of its own,
so that the score depends on the key alone.
Held out: lists whose sum ends in 7. They are never trained on.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import cross_entropy

from digsite._core.cost import measure
from digsite._core.recording import method
from digsite.models import ablate, load
from digsite.models.model import Model
from digsite.toys.trained.claims import at_least, at_most, findings, thinned
from digsite.toys.trained.networks import adamw, small_gpt2
from digsite.toys.trained.toy import Findings, TrainedToy
from digsite.toys.training import Recipe, Trained, warm_cosine

NUMBERS, LENGTH = 64, 4
EQUALS = NUMBERS
STEPS, ROWS = 5000, 256


def lists(rng: np.random.Generator, rows: int, *, held_out: bool = False) -> Int[np.ndarray, "batch pos"]:
    """Rows of numbers and `=`; those whose sum ends in 7 are held out of training.

    Each row has a ceiling of its own, so that small numbers are the answer as often as large ones.
    """
    ceiling = rng.integers(1, NUMBERS + 1, (rows * (20 if held_out else 2), 1))
    drawn = rng.integers(0, ceiling, (len(ceiling), LENGTH))
    kept = drawn[(drawn.sum(1) % 10 == 7) == held_out][:rows]
    return np.column_stack([kept, np.full(len(kept), EQUALS)])


def loss(network: Any, step: int, *, seed: int) -> Tensor:
    """Mean loss of the answer in nats."""
    ids = torch.from_numpy(lists(np.random.default_rng([seed, step]), ROWS))
    return cross_entropy(network(input_ids=ids).logits[:, -1], ids[:, :-1].amax(1))


def recipe(seed: int, steps: int | None = None) -> Recipe:
    """How it is trained."""
    steps = STEPS if steps is None else steps
    return Recipe(
        name="max-of-list",
        settings={"toy": "max-of-list/1", "steps": steps, "seed": seed},
        steps=steps,
        seed=seed,
        network=lambda: small_gpt2(vocab=NUMBERS + 1, length=LENGTH + 1, layers=1, heads=1, width=32, norm="still"),
        optimiser=adamw(weight_decay=0.1),
        loss=lambda network, step: loss(network, step, seed=seed),
        rate=warm_cosine(peak=4e-3, steps=steps),
        kept=12,
    )


def scores(model: Model) -> Float[Tensor, "pos vocab"]:
    """The QK circuit: the score that `=` gives to each number at each place of the list, in units of the softmax."""
    w, places = model.weights, model.hf.transformer.wpe.weight
    stream = w.W_E[:NUMBERS] + places[:LENGTH, None]
    asking = w.W_E[EQUALS] + places[LENGTH]
    query = (asking - asking.mean()) @ w.W_Q[0][0] + w.b_Q[0][0]
    keys = (stream - stream.mean(-1, keepdim=True)) @ w.W_K[0][0] + w.b_K[0][0]
    return keys @ query / model.d_head**0.5


def copying(model: Model) -> Float[Tensor, "src vocab"]:
    """The OV circuit: the logits when all attention goes to one number, place averaged away.

    It holds what is added whatever is attended to (the stream at `=` and the biases), for that decides with it.
    """
    w, places = model.weights, model.hf.transformer.wpe.weight
    stream = w.W_E[:NUMBERS] + places[:LENGTH].mean(0)
    moved = ((stream - stream.mean(-1, keepdim=True)) @ w.W_V[0][0] + w.b_V[0][0]) @ w.W_O[0][0] + w.b_O[0]
    final = moved + w.W_E[EQUALS] + places[LENGTH]
    return (final - final.mean(-1, keepdim=True)) @ w.W_U[:, :NUMBERS]


@method
def examine(trained: Trained, seed: int) -> Findings:
    """Measures accuracy, both circuits, and what the model is without its head."""
    with measure() as cost, torch.no_grad():
        model = load(trained.network)
        tokens = model.tokens(torch.from_numpy(lists(np.random.default_rng([seed, 0, 1]), 2000, held_out=True)))
        largest = tokens.ids[:, :-1].amax(1)
        run = model.run(tokens, read=["layers.0.attn.pattern[0]"], logits=1)
        silent = model.run(tokens, edits=[ablate("layers.0.attn.z[0]", how="mean", over=tokens, at=-1)], logits=1)
        said, without = run.logits[:, -1].argmax(-1), silent.logits[:, -1].argmax(-1)
        attention = run["layers.0.attn.pattern[0]"][:, -1, :-1]
        by_number, moved = scores(model), copying(model)
        own = moved.diagonal()
        others = moved.masked_fill(torch.eye(NUMBERS, dtype=torch.bool), -torch.inf).amax(1)
        rank: Any = spearmanr(np.arange(NUMBERS), by_number.mean(0).numpy())
        on_largest = (attention * (tokens.ids[:, :-1] == largest[:, None])).sum(1)
    claims = [
        at_least("held-out lists answered", _share(said == largest), 0.97),
        at_least("rank correlation of a number with the score that = gives it", rank.statistic, 0.98, "Spearman's ρ"),
        at_least("attention of = on the largest number", float(on_largest.mean()), 0.9),
        at_least("numbers that the OV circuit answers when all attention is on them", _share(own > others), 0.9),
        at_most("held-out lists answered with the head at its mean", _share(without == largest), 0.15),
    ]
    numbers = torch.arange(NUMBERS)
    curves = {
        "loss over steps": thinned(trained.losses),
        "score by number": (numbers, by_number.mean(0)),
        "own logit by number": (numbers, own),
        "largest other logit by number": (numbers, others),
    }
    return findings("max-of-list", claims, curves, seed=seed, cost=cost)


def _share(of: Tensor) -> float:
    return float(of.float().mean())


TOY = TrainedToy(
    name="max-of-list",
    description="A one-layer, one-head GPT-2 without MLP or norm that gives the largest of four numbers below 64.",
    cpu_minutes=0.2,
    recipe=recipe,
    examine=examine,
)
