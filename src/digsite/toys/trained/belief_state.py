"""A transformer that predicts a hidden process, and carries in its stream what an observer can know of it.

The process (Mess3) has three hidden states and three tokens. Who sees the tokens cannot know the state, only how likely
each is: a point in a triangle, moved by every token according to Bayes' rule. The points that can be reached draw a
fractal.

1. Train on the next token, and nothing else.
2. Compute the belief of an ideal observer after every token.
3. Fit a linear map from the stream to the beliefs on some rows, and judge it on others. The triangle with its fractal
   is in the stream, though no belief was ever shown to the network.

Source: Shai et al. 2024, "Transformers represent belief state geometry in their residual stream", arXiv:2405.15943;
Mess3 with x = 0.05 and a = 0.85. Ours is smaller than theirs, and its rows begin in the process' long-run mix.
Held out: rows drawn anew; there are 43 million. To leave chosen rows out of training would change what comes next in
the others, and the network would learn that, too.
Caveats: a linear map reads a belief from much that is not a model of the world. So two controls go with it: the same
map from the stream of a network that was not trained, and from all tokens so far.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from digsite._core.cost import measure
from digsite._core.recording import method
from digsite.models import load
from digsite.models.model import Model
from digsite.toys.trained.claims import at_least, at_most, findings, thinned
from digsite.toys.trained.networks import adamw, small_gpt2
from digsite.toys.trained.toy import Findings, TrainedToy
from digsite.toys.training import Recipe, Trained, warm_cosine

STATES, LENGTH = 3, 16
X, A = 0.05, 0.85
STEPS, ROWS = 4000, 96
SITE = "final.norm"
"""Where the belief is read: the stream as the unembedding reads it."""


def process() -> Float[np.ndarray, "vocab d_in d_out"]:
    """The probability of going from one state to another and giving a token there."""
    moves = np.where(np.eye(STATES) > 0, 1 - 2 * X, X)
    gives = np.where(np.eye(STATES) > 0, A, (1 - A) / 2)
    return gives[:, None, :] * moves


def rows(rng: np.random.Generator, drawn: int) -> Int[np.ndarray, "batch pos"]:
    """What the process gives."""
    state, given = rng.integers(0, STATES, drawn), []
    for _ in range(LENGTH):
        state = (state + rng.choice(STATES, drawn, p=[1 - 2 * X, X, X])) % STATES
        given.append((state + rng.choice(STATES, drawn, p=[A, (1 - A) / 2, (1 - A) / 2])) % STATES)
    return np.stack(given, 1)


def beliefs(tokens: Int[np.ndarray, "batch pos"]) -> Float[np.ndarray, "batch pos d_out"]:
    """How likely each state is after each token, for an observer who knows the process (Bayes' rule)."""
    step, belief, after = process(), np.full((len(tokens), STATES), 1 / STATES), []
    for token in tokens.T:
        belief = np.einsum("bi,bij->bj", belief, step[token])
        belief = belief / belief.sum(1, keepdims=True)
        after.append(belief)
    return np.stack(after, 1)


def loss(network: Any, step: int, *, seed: int) -> Tensor:
    """Mean next-token loss in nats."""
    ids = torch.from_numpy(rows(np.random.default_rng([seed, step]), ROWS))
    logits = network(input_ids=ids).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def untrained() -> Any:
    """The network with fresh weights."""
    return small_gpt2(vocab=STATES, length=LENGTH, layers=3, heads=2, width=32, neurons=96)


def recipe(seed: int, steps: int | None = None) -> Recipe:
    """How it is trained."""
    steps = STEPS if steps is None else steps
    return Recipe(
        name="belief-state",
        settings={"toy": "belief-state/1", "steps": steps, "seed": seed},
        steps=steps,
        seed=seed,
        network=untrained,
        optimiser=adamw(weight_decay=0.01),
        loss=lambda network, step: loss(network, step, seed=seed),
        rate=warm_cosine(peak=2e-3, steps=steps),
        kept=12,
    )


def stream(model: Model, tokens: Int[np.ndarray, "batch pos"]) -> Float[np.ndarray, "example d_in"]:
    """The stream after every token, row by row."""
    run = model.run(model.tokens(torch.from_numpy(tokens)), read=[SITE], logits=None)
    return run[SITE].flatten(0, 1).numpy()


def history(tokens: Int[np.ndarray, "batch pos"]) -> Float[np.ndarray, "example d_in"]:
    """All tokens so far, the latest first, as zeros and ones: what a belief can be read from without any model."""
    shown = one_hot(torch.from_numpy(tokens), STATES).numpy().astype(float)
    earlier = [np.pad(shown, ((0, 0), (back, 0), (0, 0)))[:, :LENGTH] for back in range(LENGTH)]
    return np.concatenate(earlier, 2).reshape(-1, LENGTH * STATES)


def fit(seen: Float[np.ndarray, "example d_in"], known: Float[np.ndarray, "example d_out"]) -> np.ndarray:
    """The linear map with a constant that comes closest, by least squares: [feature + 1, state]."""
    return np.linalg.lstsq(np.column_stack([seen, np.ones(len(seen))]), known, rcond=None)[0]


def read(seen: Float[np.ndarray, "example d_in"], by: np.ndarray) -> Float[np.ndarray, "example d_out"]:
    """What a fitted map says."""
    return np.column_stack([seen, np.ones(len(seen))]) @ by


def explained(said: Float[np.ndarray, "example d_out"], known: Float[np.ndarray, "example d_out"]) -> float:
    """R²: the share of the beliefs' variance that is read rightly."""
    return float(1 - ((said - known) ** 2).sum() / ((known - known.mean(0)) ** 2).sum())


@method
def examine(trained: Trained, seed: int) -> Findings:
    """Judges the predictions against the ideal observer, and the beliefs read from the stream against two controls."""
    with measure() as cost, torch.no_grad():
        model = load(trained.network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            fresh = load(untrained().eval())
        fitted = rows(np.random.default_rng([seed, 0, 1]), 1500)
        held_out = rows(np.random.default_rng([seed, 0, 2]), 1500)
        known, true = (beliefs(part).reshape(-1, STATES) for part in (fitted, held_out))
        left = [
            1 - explained(read(see(held_out), fit(see(fitted), known)), true)
            for see in (lambda part: stream(model, part), lambda part: stream(fresh, part), history)
        ]
        logits = model.run(model.tokens(torch.from_numpy(held_out))).logits
        said = logits.softmax(-1).numpy().astype(float).reshape(-1, STATES)
        ideal = true @ process().sum(2).T
        excess = float((ideal * np.log(ideal / said)).sum(1).mean())
    claims = [
        at_most("held-out rows: prediction against the ideal observer's", excess, 0.005, "nats"),
        at_least("variance of the beliefs read from the stream", 1 - left[0], 0.97),
        at_most("what is left unread, against a network that was not trained", left[0] / left[1], 0.5, "times"),
        at_most("what is left unread, against all tokens so far", left[0] / left[2], 0.5, "times"),
    ]
    return findings("belief-state", claims, {"loss over steps": thinned(trained.losses)}, seed=seed, cost=cost)


TOY = TrainedToy(
    name="belief-state",
    description="A three-layer GPT-2 trained on the tokens of a hidden Markov process of three states (Mess3).",
    cpu_minutes=0.7,
    recipe=recipe,
    examine=examine,
)
