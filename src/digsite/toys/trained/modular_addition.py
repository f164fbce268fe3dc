"""A one-layer transformer that learns addition modulo 59 by heart, and later understands it.

Rows are `a b =`; after `=` comes (a + b) mod 59. A third of all pairs are trained on, always all at once, under strong
weight decay. At first the network learns those by heart; much later, and within a short time, it answers the others too
("grokking"). What it has learned by then are waves:

1. The embedding of a number n holds cos(2πkn/59) and sin(2πkn/59) for a few frequencies k, the key frequencies.
2. Attention and MLP multiply them: the stream at `=` has cos and sin of 2πk(a + b)/59.
3. The logit of an answer c is a sum of cos(2πk(a + b − c)/59): all waves are at their top where c is the sum.

Two measures show it grow long before the held-out answers are right. The restricted loss keeps of the logits only the
waves of key frequencies in a + b; the excluded loss takes just those away, which leaves what was learned by heart.

Source: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability", arXiv:2301.05217, sections
4 and 5. They add modulo 113 and have no norm; ours is smaller, learns faster, and each norm divides by a constant and
subtracts the mean.
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from digsite._core.cost import measure
from digsite._core.recording import method
from digsite.models import Model, load, replace
from digsite.toys.trained.claims import at_least, at_most, findings
from digsite.toys.trained.networks import along_training, small_gpt2
from digsite.toys.trained.toy import Findings, TrainedToy
from digsite.toys.training import Recipe, Trained

P = 59
EQUALS = P
FREQUENCIES = (P - 1) // 2
STEPS, SHARE, RATE = 6000, 0.35, 5e-3


def pairs() -> Int[Tensor, "batch pos"]:
    """All rows `a b =`, a before b."""
    return torch.cat([torch.cartesian_prod(torch.arange(P), torch.arange(P)), torch.full((P * P, 1), EQUALS)], dim=1)


def trained_on(seed: int) -> Bool[Tensor, " batch"]:
    """Which of the pairs are trained on."""
    chosen = torch.zeros(P * P, dtype=torch.bool)
    chosen[torch.from_numpy(np.random.default_rng(seed).permutation(P * P)[: round(SHARE * P * P)])] = True
    return chosen


def loss_of(logits: Float[Tensor, "batch vocab"], ids: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Mean loss of the answer in nats, in float64: a loss of 1e-7 must still be told from zero."""
    return cross_entropy(logits.double(), ids[:, :2].sum(1) % P)


def network() -> Any:
    """One layer, four heads, 256 neurons; matrices start large, so that learning by heart is what comes first."""
    made = small_gpt2(vocab=P + 1, length=3, layers=1, heads=4, width=64, neurons=256, norm="still")
    with torch.no_grad():
        for weight in made.parameters():
            if weight.requires_grad and weight.ndim > 1:
                weight.mul_(5)
    return made


def optimiser(network: Any) -> torch.optim.Optimizer:
    """AdamW that pulls all weights to zero, biases too: what was learned by heart needs larger weights, and loses."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    return torch.optim.AdamW(trained, weight_decay=1.0, betas=(0.9, 0.98), fused=True)


def recipe(seed: int, steps: int | None = None) -> Recipe:
    """How it is trained: all pairs of the training part in every step."""
    steps = STEPS if steps is None else steps
    ids = pairs()[trained_on(seed)]

    def loss(network: Any, step: int) -> Tensor:
        return loss_of(network(input_ids=ids, logits_to_keep=1).logits[:, -1], ids)

    return Recipe(
        name="modular-addition",
        settings={"toy": "modular-addition/1", "steps": steps, "seed": seed},
        steps=steps,
        seed=seed,
        network=network,
        optimiser=optimiser,
        loss=loss,
        rate=lambda step: RATE * min(1.0, (step + 1) / 10),
        kept=60,
    )


def waves(frequency: int, numbers: Int[Tensor, " place"]) -> Float[Tensor, "2 place"]:
    """cos(2πkn/59) and sin(2πkn/59) of numbers n, at frequency k."""
    angle = 2 * math.pi * frequency * numbers / P
    return torch.stack([angle.cos(), angle.sin()])


def spectrum(embedding: Float[Tensor, "vocab d_model"]) -> Float[Tensor, " place"]:
    """How much of the embedding is a wave of each frequency 1 to 29, over the numbers 0 to 58.

    Args:
        embedding: One row for each number.

    Units: fraction of the variance over numbers; they sum to one.
    """
    power = torch.fft.rfft(embedding[:P].double(), dim=0).abs().square().sum(1)[1:]
    return (power / power.sum()).float()


def keep_frequencies(
    embedding: Float[Tensor, "vocab d_model"], frequencies: list[int]
) -> Float[Tensor, "vocab d_model"]:
    """The embedding with the waves of all other frequencies taken out of its numbers; the mean stays."""
    kept = torch.zeros(FREQUENCIES + 1, 1)
    kept[[0, *frequencies]] = 1
    numbers = torch.fft.irfft(torch.fft.rfft(embedding[:P], dim=0) * kept, n=P, dim=0)
    return torch.cat([numbers, embedding[P:]])


def sum_waves(logits: Float[Tensor, "batch vocab"], frequencies: list[int]) -> Float[Tensor, "batch vocab"]:
    """What of the logits over all pairs is a wave of these frequencies in a + b."""
    total = torch.zeros_like(logits)
    for frequency in frequencies:
        for wave in waves(frequency, pairs()[:, :2].sum(1)).to(logits):
            total += torch.outer(wave, wave @ logits) / wave.square().sum()
    return total


def answer_waves(logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, " place"]:
    """How much of the logits over all pairs is cos(2πk(a + b − c)/59), for each frequency k from 1 to 29.

    Units: fraction of the variance of the logits of 0 to 58, each pair's mean taken out; they sum to at most one.
    """
    centred = logits[:, :P] - logits[:, :P].mean(1, keepdim=True)
    apart = (pairs()[:, :2].sum(1)[:, None] - torch.arange(P)).flatten()
    shares = []
    for frequency in range(1, FREQUENCIES + 1):
        wave = waves(frequency, apart)[0].to(centred)
        shares.append((wave @ centred.flatten()) ** 2 / wave.square().sum() / centred.square().sum())
    return torch.stack(shares)


def key_frequencies(logits: Float[Tensor, "batch vocab"], *, least: float = 0.02) -> list[int]:
    """The frequencies whose wave is at least this share of the variance of the logits."""
    return [int(k) + 1 for k in torch.nonzero(answer_waves(logits) >= least).flatten()]


def restricted_loss(logits: Float[Tensor, "batch vocab"], frequencies: list[int]) -> float:
    """Loss over all pairs when the logits keep nothing but their mean and the waves of these frequencies in a + b.

    Units: nats.

    Source: Nanda et al. 2023, section 5.1.
    """
    return float(loss_of(logits.mean(0) + sum_waves(logits, frequencies), pairs()))


def excluded_loss(
    logits: Float[Tensor, "batch vocab"], frequencies: list[int], trained: Bool[Tensor, " batch"]
) -> float:
    """Loss over the pairs trained on when the waves of these frequencies in a + b are taken out of the logits.

    Units: nats.

    Source: Nanda et al. 2023, section 5.1.
    """
    return float(loss_of((logits - sum_waves(logits, frequencies))[trained], pairs()[trained]))


@torch.no_grad()
def all_logits(network: Any) -> Float[Tensor, "batch vocab"]:
    """The logits after `=` of every pair, in float64."""
    return network(input_ids=pairs(), logits_to_keep=1).logits[:, -1].double()


def answered(logits: Float[Tensor, "batch vocab"], among: Bool[Tensor, " batch"]) -> float:
    """Which part of these pairs is answered."""
    right = logits.argmax(1) == pairs()[:, :2].sum(1) % P
    return float(right[among].float().mean())


def with_frequencies(model: Model, frequencies: list[int]) -> Float[Tensor, "batch vocab"]:
    """The logits of every pair when the embedding keeps only these frequencies."""
    tokens = model.tokens(pairs())
    table = keep_frequencies(model.weights.W_E.detach(), frequencies)
    return model.run(tokens, edits=[replace("embed", table[tokens.ids])], logits=1).logits[:, -1].double()


def progress(trained: Trained, frequencies: list[int], on: Bool[Tensor, " batch"]) -> dict[str, list[float]]:
    """Losses and accuracies over the checkpoints; frequencies are those of the end.

    Returns:
        Series, each with one number for each checkpoint: `steps`, `trained loss`, `held-out loss`, `restricted loss`,
        `excluded loss` in nats, `trained answered` and `held-out answered` as fractions.
    """
    series: dict[str, list[float]] = {}
    for steps, network in along_training(trained):
        logits = all_logits(network)
        measured = {
            "steps": float(steps),
            "trained loss": float(loss_of(logits[on], pairs()[on])),
            "held-out loss": float(loss_of(logits[~on], pairs()[~on])),
            "restricted loss": restricted_loss(logits, frequencies),
            "excluded loss": excluded_loss(logits, frequencies, on),
            "trained answered": answered(logits, on),
            "held-out answered": answered(logits, ~on),
        }
        for name, value in measured.items():
            series.setdefault(name, []).append(value)
    return series


@method
def examine(trained: Trained, seed: int) -> Findings:
    """Measures that the sum is computed with a few waves, and that they grew before the answers did."""
    with measure() as cost, torch.no_grad():
        on, model = trained_on(seed), load(trained.network)
        logits = all_logits(trained.network)
        key = key_frequencies(logits)
        others = [k for k in range(1, FREQUENCIES + 1) if k not in key]
        embedded, explained = spectrum(model.weights.W_E.detach()), answer_waves(logits)
        series = progress(trained, key, on)
        kept, lost = (answered(with_frequencies(model, some), ~on) for some in (key, others))
        by_heart = _first(series, "trained answered", 0.99)
        understood = _first(series, "held-out answered", 0.95)
        at = _last_below(series["held-out answered"], 0.5)
    claims = [
        at_least("held-out pairs answered", answered(logits, ~on), 0.99),
        at_least("key frequencies", float(len(key)), 1.0, "frequencies"),
        at_most("key frequencies, not many", float(len(key)), 8.0, "frequencies"),
        at_least("variance of the logits that is waves of key frequencies", float(explained[_places(key)].sum()), 0.8),
        at_least("variance of the embedding at key frequencies", float(embedded[_places(key)].sum()), 0.6),
        at_least("held-out pairs answered with only key frequencies in the embedding", kept, 0.95),
        at_most("held-out pairs answered with all but key frequencies in the embedding", lost, 0.1),
        at_most("restricted loss: only key waves of a + b in the logits", series["restricted loss"][-1], 0.1, "nats"),
        at_least("excluded loss: no key waves of a + b in the logits", series["excluded loss"][-1], 1.0, "nats"),
        at_least(
            "steps to answer held-out pairs, by steps to answer those trained on", understood / by_heart, 5.0, "×"
        ),
        at_most(
            "restricted loss while fewer than half of the held-out pairs are answered, by held-out loss",
            series["restricted loss"][at] / series["held-out loss"][at],
            0.3,
        ),
    ]
    curves = {
        **{name: (series["steps"], values) for name, values in series.items() if name != "steps"},
        "embedding by frequency": (np.arange(1, FREQUENCIES + 1), embedded),
        "logits by frequency": (np.arange(1, FREQUENCIES + 1), explained),
    }
    return findings("modular-addition", claims, curves, seed=seed, cost=cost)


def _places(frequencies: list[int]) -> list[int]:
    return [frequency - 1 for frequency in frequencies]


def _first(series: dict[str, list[float]], name: str, bound: float) -> float:
    """The steps of the first checkpoint that reaches the bound; NaN, which holds no claim, where none does."""
    reached = (steps for steps, value in zip(series["steps"], series[name], strict=True) if value >= bound)
    return next(reached, math.nan)


def _last_below(values: list[float], bound: float) -> int:
    return max((i for i, value in enumerate(values) if value < bound), default=0)


TOY = TrainedToy(
    name="modular-addition",
    description="A one-layer GPT-2 without norm that adds modulo 59, and came to do so by grokking.",
    cpu_minutes=2.4,
    recipe=recipe,
    examine=examine,
)
