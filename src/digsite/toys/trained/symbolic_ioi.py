"""A transformer that names the one who was not named twice, in a made-up language of nothing but names.

Rows are a start token, two names in either order, `then`, one of the two names again, `to`. The answer is the other
name: `A B then B to` gives A. It is "When Mary and John went to the store, John gave a drink to" with all words gone
that do not matter. The names are called as in the paper below: S1 and S2 are the two places of the name that is said
twice, IO is the place of the other.

Two layers of one head, no MLP, no norm. What the trained network does:

1. At `to` the first head attends to S2 and fetches the name there: the one to leave out.
2. At `to` the second head compares both names with the fetched one. The one that was fetched gets the lower
   score (that is how the duplicate is left out), so attention goes to IO, whose name is the answer.

Source: the task is that of Wang et al. 2022, "Interpretability in the wild", arXiv:2211.00593. GPT-2 does the
same in more steps: it first marks S2 as a duplicate, and has heads that fetch the mark (S-inhibition) and the name.
Caveats: a seed can find another circuit, in which the name is chosen at S2 and fetched from there (one of four that we
tried). The examination refuses it.
Held out: one pair of names in five is never trained on, in neither order and neither role.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from digsite._core.cost import measure
from digsite._core.recording import method
from digsite.models import ablate, load, patch
from digsite.models.model import Model
from digsite.toys.trained.claims import at_least, at_most, findings, thinned
from digsite.toys.trained.networks import adamw, small_gpt2
from digsite.toys.trained.toy import Findings, TrainedToy
from digsite.toys.training import Recipe, Trained, warm_cosine

NAMES = 32
START, THEN, TO = NAMES, NAMES + 1, NAMES + 2
LENGTH, S2 = 6, 4
STEPS, ROWS = 1200, 256
FIRST, SECOND = "layers.0.attn.z[0]", "layers.1.attn.z[0]"


class Prompts(NamedTuple):
    """Rows of token ids, and what is known of each.

    Attributes:
        ids: The tokens.
        io: The name that is the answer.
        s: The name that is said twice.
        s1: The position where it is said first; the answer is at the other of positions 1 and 2.
    """

    ids: Int[Tensor, "batch pos"]
    io: Int[Tensor, " batch"]
    s: Int[Tensor, " batch"]
    s1: Int[Tensor, " batch"]


def prompts(rng: np.random.Generator, rows: int, *, held_out: bool = False) -> Prompts:
    """Prompts from pairs of names that are trained on, or from the others."""
    drawn = rows * (12 if held_out else 2)
    s = rng.integers(0, NAMES, drawn)
    io = (s + rng.integers(1, NAMES, drawn)) % NAMES
    apart = (np.minimum(s, io) * 7 + np.maximum(s, io) * 3) % 5 == 0
    s, io = s[apart == held_out][:rows], io[apart == held_out][:rows]
    s1 = rng.integers(1, 3, len(s))
    there = np.ones_like(s)
    ids = [there * START, np.where(s1 == 1, s, io), np.where(s1 == 1, io, s), there * THEN, s, there * TO]
    return Prompts(*(torch.from_numpy(part) for part in (np.column_stack(ids), io, s, s1)))


def loss(network: Any, step: int, *, seed: int) -> Tensor:
    """Mean loss of the answer in nats."""
    made = prompts(np.random.default_rng([seed, step]), ROWS)
    return cross_entropy(network(input_ids=made.ids).logits[:, -1], made.io)


def recipe(seed: int, steps: int | None = None) -> Recipe:
    """How it is trained."""
    steps = STEPS if steps is None else steps
    return Recipe(
        name="symbolic-ioi",
        settings={"toy": "symbolic-ioi/1", "steps": steps, "seed": seed},
        steps=steps,
        seed=seed,
        network=lambda: small_gpt2(vocab=NAMES + 3, length=LENGTH, layers=2, heads=1, width=64, norm="still"),
        optimiser=adamw(weight_decay=0.5),
        loss=lambda network, step: loss(network, step, seed=seed),
        rate=warm_cosine(peak=1e-2, steps=steps),
        kept=12,
    )


def exclusion(model: Model) -> Float[Tensor, "dst src"]:
    """The score at `to` of the second head, for each fetched name and each name it may attend to.

    The first head is taken to attend to S2 alone. What it writes at the first two places is left out.
    """
    w, places = model.weights, model.hf.transformer.wpe.weight
    said = _centred(w.W_E[:NAMES] + places[S2])
    fetched = (said @ w.W_V[0][0] + w.b_V[0][0]) @ w.W_O[0][0] + w.b_O[0]
    query = _centred(w.W_E[TO] + places[LENGTH - 1] + fetched) @ w.W_Q[1][0] + w.b_Q[1][0]
    key = _centred(w.W_E[:NAMES] + places[1:3].mean(0)) @ w.W_K[1][0] + w.b_K[1][0]
    return query @ key.T / model.d_head**0.5


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


@method
def examine(trained: Trained, seed: int) -> Findings:
    """Measures accuracy, where both heads look, and what happens to the answer when each is silenced or replaced."""
    with measure() as cost, torch.no_grad():
        model = load(trained.network)
        made = prompts(np.random.default_rng([seed, 0, 1]), 1000, held_out=True)
        tokens, row = model.tokens(made.ids), torch.arange(len(made.ids))
        run = model.run(tokens, read=["layers.*.attn.pattern[0]"], logits=1)
        first, second = run["layers.*.attn.pattern[0]"][:, :, -1]
        on_io, on_s1 = second[row, 3 - made.s1], second[row, made.s1]
        score = exclusion(model)
        own = score.diagonal()
        lower = float((own[:, None] < score).sum() / (NAMES * (NAMES - 1)))
        answers = [run.logits[:, -1].argmax(-1)]
        for site, at in ((FIRST, LENGTH - 1), (SECOND, LENGTH - 1), (FIRST, S2)):
            silent = ablate(site, how="mean", over=tokens, at=at)
            answers.append(model.run(tokens, edits=[silent], logits=1).logits[:, -1].argmax(-1))
        turned = made.ids.clone()
        turned[:, S2] = made.io  # now the other name is the one that is said twice
        donor = model.run(model.tokens(turned), read=[FIRST])
        misled = model.run(tokens, edits=[patch(FIRST, donor, at=-1)], logits=1).logits[:, -1].argmax(-1)
    right = [_share(answer == made.io) for answer in answers]
    claims = [
        at_least("held-out pairs answered", right[0], 0.97),
        at_least("first head: attention of the last token on S2", float(first[:, S2].mean()), 0.8),
        at_least("second head: attention of the last token on IO", float(on_io.mean()), 0.6),
        at_least("prompts where that is more than on S1", _share(on_io > on_s1), 0.95),
        at_least("pairs of names in which the fetched one gets the lower score", lower, 0.8),
        at_most("answered with the first head at its mean at the last token", right[1], 0.6),
        at_most("answered with the second head at its mean at the last token", right[2], 0.2),
        at_least("answered with the first head at its mean at S2", right[3], 0.7),
        at_least("S answered when the first head fetches IO instead", _share(misled == made.s), 0.9),
    ]
    others = (score.sum(1) - own) / (NAMES - 1)
    curves = {
        "loss over steps": thinned(trained.losses),
        "score of a name that was fetched": (torch.arange(NAMES), own),
        "mean score of another": (torch.arange(NAMES), others),
    }
    return findings("symbolic-ioi", claims, curves, seed=seed, cost=cost)


def _share(of: Tensor) -> float:
    return float(of.float().mean())


TOY = TrainedToy(
    name="symbolic-ioi",
    description="A two-layer, attention-only GPT-2 that gives the name that was not said twice.",
    cpu_minutes=0.2,
    recipe=recipe,
    examine=examine,
)
