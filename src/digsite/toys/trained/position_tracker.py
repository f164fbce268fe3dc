"""A transformer that has to know where it is, and the few directions in which it keeps that.

Rows are a start token and 31 random tokens. At each position the answer is the token at which the current block of four
began: at positions 4, 5, 6 and 7 it is the token at position 4. No token says where a block begins; only position does.

1. The mean of the stream at a position, over many rows, is what the stream says of the position: everything else
   averages out.
2. A few principal directions of those means hold nearly all of what the means differ in.
3. From these directions alone the position of a held-out row's token is read back; without them the answers are lost,
   while as many random directions can go without harm.

What the trained network looks for is the latest beginning of a block: the positions that are attended to have to know
what they are, the one that asks need not.

Source: the split of the stream into a mean at each position and a rest, and that the means span few dimensions, is from
Song and Zhong 2023, "Uncovering hidden geometry in Transformers via disentangling position and context",
arXiv:2310.04861, section 2.
Caveats: the start token at position 0 is another token, so position 0 is left out of the means.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from digsite._core.cost import measure
from digsite._core.recording import method
from digsite.models import Edit, apply, load
from digsite.models.model import Model
from digsite.toys.trained.claims import at_least, at_most, findings, thinned
from digsite.toys.trained.networks import adamw, small_gpt2
from digsite.toys.trained.toy import Findings, TrainedToy
from digsite.toys.training import Recipe, Trained, warm_cosine

TOKENS, START = 24, 24
LENGTH, BLOCK = 32, 4
STEPS, ROWS = 1000, 64
SITE, SIZE = "layers.0.resid_pre", 8
"""Where the position is read, and in how many directions."""


def rows(rng: np.random.Generator, count: int) -> Int[Tensor, "batch pos"]:
    """Rows of random tokens after the start token."""
    return torch.from_numpy(np.column_stack([np.full(count, START), rng.integers(0, TOKENS, (count, LENGTH - 1))]))


def answers(ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """The token with which the block of each position began."""
    places = torch.arange(LENGTH)
    return ids[:, places - places % BLOCK]


def loss(network: Any, step: int, *, seed: int) -> Tensor:
    """Mean loss of the answers in nats; the first block begins with the start token and is not asked."""
    ids = rows(np.random.default_rng([seed, step]), ROWS)
    logits = network(input_ids=ids).logits[:, BLOCK:]
    return cross_entropy(logits.flatten(0, 1), answers(ids)[:, BLOCK:].flatten())


def recipe(seed: int, steps: int | None = None) -> Recipe:
    """How it is trained."""
    steps = STEPS if steps is None else steps
    return Recipe(
        name="position-tracker",
        settings={"toy": "position-tracker/1", "steps": steps, "seed": seed},
        steps=steps,
        seed=seed,
        network=lambda: small_gpt2(vocab=TOKENS + 1, length=LENGTH, layers=2, heads=2, width=64, neurons=128),
        optimiser=adamw(weight_decay=0.1),
        loss=lambda network, step: loss(network, step, seed=seed),
        rate=warm_cosine(peak=3e-3, steps=steps),
        kept=12,
    )


def position_means(model: Model, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "place d_model"]:
    """What the stream says of each position from 1 on: its mean over the rows."""
    return model.run(model.tokens(ids), read=[SITE], logits=None)[SITE].mean(0)[1:]


def directions(
    means: Float[Tensor, "place d_model"],
) -> tuple[Float[Tensor, "component d_model"], Float[Tensor, " component"]]:
    """The principal directions of the means, the strongest first, and the share of their variance that each holds."""
    _, strength, basis = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    return basis, strength**2 / (strength**2).sum()


def decoded(
    stream: Float[Tensor, "batch pos d_model"],
    means: Float[Tensor, "place d_model"],
    basis: Float[Tensor, "component d_model"],
) -> Int[Tensor, "batch pos"]:
    """The position whose mean is nearest, for each vector of the stream, when only these directions are looked at."""
    apart = torch.cdist((stream @ basis.T).flatten(0, 1), means @ basis.T)
    return apart.argmin(1).unflatten(0, stream.shape[:2])


def removed(basis: Float[Tensor, "component d_model"], middle: Float[Tensor, " d_model"]) -> Edit:
    """Sets what the stream says along some directions to what it says there on average."""
    return apply(SITE, lambda x: x - (x - middle) @ basis.T @ basis)


def right(model: Model, ids: Int[Tensor, "batch pos"], edits: tuple[Edit, ...] = ()) -> float:
    """The share of positions that are answered rightly, from the second block on."""
    said = model.run(model.tokens(ids), edits=edits).logits.argmax(-1)
    return float((said == answers(ids))[:, BLOCK:].float().mean())


def random_basis(size: int, d_model: int, seed: int) -> Float[Tensor, "component d_model"]:
    """As many random directions, orthogonal to each other."""
    drawn = torch.randn(d_model, size, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn)[0].T


@method
def examine(trained: Trained, seed: int) -> Findings:
    """Finds the directions of position on some rows, and judges them on others."""
    with measure() as cost, torch.no_grad():
        model = load(trained.network)
        fitted, held_out = (rows(np.random.default_rng([seed, 0, part]), 200) for part in (1, 2))
        means = position_means(model, fitted)
        middle = means.mean(0)
        basis, shares = directions(means)
        few = basis[:SIZE]
        stream = model.run(model.tokens(held_out), read=[SITE], logits=None)[SITE][:, 1:]
        nulls = [random_basis(SIZE, model.d_model, number) for number in range(5)]
        true = torch.arange(LENGTH - 1)
        read = float((decoded(stream, means, few) == true).float().mean())
        read_null = [float((decoded(stream, means, null) == true).float().mean()) for null in nulls]
        whole, without = right(model, held_out), right(model, held_out, (removed(few, middle),))
        without_null = [right(model, held_out, (removed(null, middle),)) for null in nulls]
        sizes = [1, 2, 4, 8, 16]
        losing = [right(model, held_out, (removed(basis[:size], middle),)) for size in sizes]
    claims = [
        at_least("held-out rows: positions answered", whole, 0.97),
        at_least(f"variance of the position means in {SIZE} directions", float(shares[:SIZE].sum()), 0.75),
        at_least(f"held-out positions read from {SIZE} directions", read, 0.7),
        at_most(f"held-out positions read from {SIZE} random directions", float(np.mean(read_null)), 0.65),
        at_most(f"answered without the {SIZE} directions", without, 0.4),
        at_least(f"answered without {SIZE} random directions", float(np.mean(without_null)), 0.9),
    ]
    curves = {
        "loss over steps": thinned(trained.losses),
        "variance of the position means by number of directions": (torch.arange(1, len(shares) + 1), shares.cumsum(0)),
        "answered without so many directions": (sizes, losing),
    }
    return findings("position-tracker", claims, curves, seed=seed, cost=cost)


TOY = TrainedToy(
    name="position-tracker",
    description="A two-layer GPT-2 whose answers depend on the position alone: which earlier token to repeat.",
    cpu_minutes=0.3,
    recipe=recipe,
    examine=examine,
)
