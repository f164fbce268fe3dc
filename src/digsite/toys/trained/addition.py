"""A transformer that adds column by column, and the one direction in which it keeps the carry.

Rows are `a b c + d e f =` and the sum's four digits from the ones up: 047 + 125 = 172 is `0 4 7 + 1 2 5 = 2 7 1 0`.
Written so, each digit follows from its column and the one before. Operands have two digits or three, two-digit ones a
zero in front. One pair in ten is held out of training.

1. At each place where a digit is answered, heads look at the two digits of its column.
2. One head looks at the two digits of the column before, and the token that asks is the digit just answered. The sum of
   the two is that digit, or ten more if there is a carry. So sum minus digit tells the carry: it is linear, and the
   stream holds it before the MLP.
3. One direction reads and sets it: from the mean stream without a carry to the mean with one. Moved along it, the
   answer changes by one.

Source: one column for each place, with attention to its digits, is from Quirke and Barez 2023, "Understanding addition
in transformers", arXiv:2310.13121, for sums written from the left; that sums from the right are learned sooner is from
Lee et al. 2023, "Teaching arithmetic to small transformers", arXiv:2307.03381. The carry as the sum minus the digit is
what we found.
Caveats: a linear fit by least squares reads the carry even better, but it does so in a network that was not trained,
too, and moving along it changes no answer. So it is not used here (see the exercises in the documentation).
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from digsite._core.cost import measure
from digsite._core.recording import method
from digsite.models import add, load
from digsite.models.model import Model
from digsite.toys.trained.claims import at_least, at_most, findings, thinned
from digsite.toys.trained.muon import Muon
from digsite.toys.trained.networks import small_gpt2
from digsite.toys.trained.toy import Findings, TrainedToy
from digsite.toys.training import Recipe, Trained, warm_cosine

PLUS, EQUALS = 10, 11
DIGITS, LENGTH = 3, 12
ANSWERS = 2 * DIGITS + 1
"""The place of `=`, at which the ones are answered; column k is answered k places further."""
STEPS, ROWS = 1500, 64
BEFORE, SITE = "layers.0.resid_pre", "layers.0.resid_mid"
"""The stream before attention, and after it, where the carry is read."""


@cache
def held_out_pairs() -> Bool[np.ndarray, "operand operand"]:
    """Which pairs of numbers are never trained on."""
    return np.random.default_rng(0).random((10**DIGITS, 10**DIGITS)) < 0.1


def numbers(rng: np.random.Generator, rows: int, *, held_out: bool = False) -> Int[np.ndarray, "batch operand"]:
    """Pairs of numbers; each has two digits or three, as likely the one as the other."""
    drawn = 15 * rows + 100 if held_out else 2 * rows
    least = np.where(rng.random((drawn, 2)) < 0.5, 10, 100)
    pairs = rng.integers(least, 10 * least)
    return pairs[held_out_pairs()[pairs[:, 0], pairs[:, 1]] == held_out][:rows]


def digit(of: Int[np.ndarray, " batch"], column: int) -> Int[np.ndarray, " batch"]:
    """The digit in a column; the ones are column 0."""
    return of // 10**column % 10


def rows(pairs: Int[np.ndarray, "batch operand"]) -> Int[Tensor, "batch pos"]:
    """Sums as token ids, with their answers."""
    first, second = ([digit(side, column) for column in reversed(range(DIGITS))] for side in pairs.T)
    answers = [digit(pairs.sum(1), column) for column in range(DIGITS + 1)]
    plus, equals = (np.full(len(pairs), sign) for sign in (PLUS, EQUALS))
    return torch.from_numpy(np.stack([*first, plus, *second, equals, *answers], 1))


def carries(pairs: Int[np.ndarray, "batch operand"], column: int) -> Bool[Tensor, " batch"]:
    """Whether one is carried into a column."""
    return torch.from_numpy((pairs % 10**column).sum(1) >= 10**column)


def loss(network: Any, step: int, *, seed: int) -> Tensor:
    """Mean loss of the digits of the sum, in nats."""
    ids = rows(numbers(np.random.default_rng([seed, step]), ROWS))
    logits = network(input_ids=ids[:, :-1], logits_to_keep=DIGITS + 1).logits
    return cross_entropy(logits.flatten(0, 1), ids[:, ANSWERS + 1 :].flatten())


def untrained() -> Any:
    """The network with fresh weights."""
    return small_gpt2(vocab=12, length=LENGTH, layers=1, heads=4, width=64, neurons=256)


def recipe(seed: int, steps: int | None = None) -> Recipe:
    """How it is trained."""
    steps = STEPS if steps is None else steps
    return Recipe(
        name="addition",
        settings={"toy": "addition/2", "steps": steps, "seed": seed},
        steps=steps,
        seed=seed,
        network=untrained,
        optimiser=lambda network: Muon(network, weight_decay=0.05),
        loss=lambda network, step: loss(network, step, seed=seed),
        rate=warm_cosine(peak=1e-2, steps=steps),
        clip=1.0,
        kept=12,
    )


def answers(model: Model, pairs: Int[np.ndarray, "batch operand"]) -> Int[Tensor, "batch token"]:
    """The digits that the model answers, the ones first, each after the right digits before it."""
    return model.run(model.tokens(rows(pairs)[:, :-1]), logits=DIGITS + 1).logits.argmax(-1)


def right(model: Model, pairs: Int[np.ndarray, "batch operand"]) -> float:
    """The share of sums of which every digit is right."""
    return float((answers(model, pairs) == rows(pairs)[:, ANSWERS + 1 :]).all(1).float().mean())


def looks(pattern: Float[Tensor, "batch head dst src"], *, back: int) -> Float[Tensor, " head"]:
    """How much of its attention each head gives to the digits of the column so many columns before the one answered.

    Units: fraction, the mean over rows and over columns that have such a column before them.
    """
    columns = range(DIGITS)
    seen = [
        pattern[:, :, ANSWERS + column + back, [DIGITS - 1 - column, 2 * DIGITS - column]].sum(-1) for column in columns
    ]
    return torch.stack(seen).mean((0, 1))


def stream(model: Model, pairs: Int[np.ndarray, "batch operand"], column: int, *, site: str = SITE) -> Tensor:
    """The stream where a column is answered: [batch, d_model]."""
    tokens = model.tokens(rows(pairs)[:, :-1])
    return model.run(tokens, read=[site], at=ANSWERS + column, logits=None)[site]


def carry_direction(
    seen: Float[Tensor, "batch d_model"], carry: Bool[Tensor, " batch"]
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """The direction of unit length from the mean stream without a carry to the mean with one, and their middle."""
    without, with_one = seen[~carry].mean(0), seen[carry].mean(0)
    return (with_one - without) / (with_one - without).norm(), (with_one + without) / 2


def carry_read(
    seen: Float[Tensor, "batch d_model"],
    direction: Float[Tensor, " d_model"],
    middle: Float[Tensor, " d_model"],
) -> Bool[Tensor, " batch"]:
    """Whether the stream lies on the side of the carry."""
    return (seen - middle) @ direction > 0


def patched(
    model: Model, pairs: Int[np.ndarray, "batch operand"], column: int, change: Float[Tensor, "batch d_model"]
) -> Int[Tensor, " batch"]:
    """The digit that the model answers in a column when something is added to the stream there."""
    edit = add(SITE, change, at=ANSWERS + column)
    return model.run(model.tokens(rows(pairs)[:, :-1]), edits=[edit]).logits[:, ANSWERS + column].argmax(-1)


def with_other_carry(pairs: Int[np.ndarray, "batch operand"], column: int) -> Int[Tensor, " batch"]:
    """What the digit of a column would be if the carry into it were the other."""
    one = torch.where(carries(pairs, column), -1, 1)
    return (torch.from_numpy(digit(pairs.sum(1), column)) + one) % 10


def donors(carry: Bool[Tensor, " batch"], rng: np.random.Generator) -> Int[Tensor, " batch"]:
    """For each row another at random, with the other carry."""
    chosen = torch.empty(len(carry), dtype=torch.long)
    for value in (carry, ~carry):
        others = np.flatnonzero(~value.numpy())
        chosen[value] = torch.from_numpy(rng.choice(others, int(value.sum())))
    return chosen


def examine_carry(model: Model, fresh: Model, column: int, seed: int) -> dict[str, float]:
    """Reads the carry into a column and patches it, along a direction from some held-out sums, judged on others.

    Returns:
        Fractions: of carries read rightly ("read"), along directions from shuffled carries ("shuffled"), before
        attention ("before"), and in a network that was not trained ("fresh"); of digits that change by one as they
        should when the stream gets the reading of a sum with the other carry ("patched"), when it is moved by the
        distance of the means ("moved"), and when it is moved as far in a random direction ("random").
    """
    rng = np.random.default_rng([seed, 0, 3])
    drawn = numbers(rng, 3000, held_out=True)
    fitted, judged = drawn[:1500], drawn[1500:]
    known, true = carries(fitted, column), carries(judged, column)

    def both(of: Model, site: str) -> tuple[Tensor, Tensor]:
        return stream(of, fitted, column, site=site), stream(of, judged, column, site=site)

    def read(at: tuple[Tensor, Tensor], taught: Bool[Tensor, " batch"]) -> float:
        return _share(carry_read(at[1], *carry_direction(at[0], taught)) == true)

    seen, new = both(model, SITE)
    direction, _ = carry_direction(seen, known)
    apart = (seen[known] - seen[~known].mean(0)).mean(0) @ direction
    patch = ((new[donors(true, rng)] - new) @ direction)[:, None] * direction
    move = torch.where(true, -apart, apart)[:, None] * direction
    random = torch.randn(move.shape, generator=torch.Generator().manual_seed(seed))
    random = apart * random / random.norm(dim=1, keepdim=True)
    other = with_other_carry(judged, column)
    shuffles = [known[torch.from_numpy(rng.permutation(len(known)))] for _ in range(10)]
    return {
        "read": read((seen, new), known),
        "shuffled": float(np.mean([read((seen, new), shuffle) for shuffle in shuffles])),
        "before": read(both(model, BEFORE), known),
        "fresh": read(both(fresh, SITE), known),
        "patched": _share(patched(model, judged, column, patch) == other),
        "moved": _share(patched(model, judged, column, move) == other),
        "random": _share(patched(model, judged, column, random) == other),
    }


@method
def examine(trained: Trained, seed: int) -> Findings:
    """Measures the sums, where the heads look, and the carry into the tens and into the hundreds."""
    with measure() as cost, torch.no_grad():
        model = load(trained.network)
        pairs = numbers(np.random.default_rng([seed, 0, 2]), 2000, held_out=True)
        pattern = model.run(model.tokens(rows(pairs)[:, :-1]), read=["layers.0.attn.pattern"], logits=None)
        aligned, before = (looks(pattern["layers.0.attn.pattern"], back=back) for back in (0, 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            fresh = load(untrained().eval())
        tens, hundreds = (examine_carry(model, fresh, column, seed) for column in (1, 2))
        mean = {name: (tens[name] + hundreds[name]) / 2 for name in tens}
    claims = [
        at_least("held-out sums, every digit right", right(model, pairs), 0.97),
        at_least("of them, those of two two-digit numbers", right(model, pairs[pairs.max(1) < 100]), 0.97),
        at_least("a head's attention on the two digits of the column", float(aligned.max()), 0.8),
        at_least("a head's attention on the two digits of the column before", float(before.max()), 0.8),
        at_least("carry read along its direction, after attention", mean["read"], 0.9),
        at_most("carry read along directions from shuffled carries", mean["shuffled"], 0.65),
        at_most("carry read along its direction before attention", mean["before"], 0.85),
        at_most("carry read along its direction in a network that was not trained", mean["fresh"], 0.85),
        at_least("digit changes by one: reading of a sum with the other carry patched in", mean["patched"], 0.75),
        at_least("digit changes by one: moved along the direction by the distance of the means", mean["moved"], 0.95),
        at_most("digit changes by one: moved as far in a random direction", mean["random"], 0.2),
    ]
    return findings("addition", claims, {"loss over steps": thinned(trained.losses)}, seed=seed, cost=cost)


def _share(of: Tensor) -> float:
    return float(of.float().mean())


TOY = TrainedToy(
    name="addition",
    description="A one-layer GPT-2 that adds numbers of two or three digits, from the ones up.",
    cpu_minutes=0.3,
    recipe=recipe,
    examine=examine,
)
