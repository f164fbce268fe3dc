"""How well a model knows the world, on combinations that it was never trained on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from digsite.tasks.examples import Example
from digsite.tasks.sampling import distinct
from digsite.toys.tinyworld.families import FAMILIES
from digsite.toys.tinyworld.vocabulary import BOS, PAD, pieces, vocabulary
from digsite.toys.tinyworld.world import Family


@dataclass(frozen=True)
class Score:
    """One row of the held-out table.

    Attributes:
        family: Name of the family.
        measure: "accuracy" (the top token of the whole vocabulary is a right answer) or "mass" (mean probability on the
            right answers).
        unseen: On held-out combinations, fraction.
        n: How many such examples there are, at most as many as asked for.
        seen: On combinations that were trained on, fraction.
        target: What the model should reach; None is reported as it comes.
        judged_on: Which of the two the target is for, "held out" or "trained".
    """

    family: str
    measure: str
    unseen: float
    n: int
    seen: float
    target: float | None
    judged_on: str

    @property
    def reached(self) -> bool:
        """Whether the target is met, where there is one."""
        return self.target is None or (self.unseen if self.judged_on == "held out" else self.seen) >= self.target


def evaluate(
    network: PreTrainedModel, *, n: int = 400, seed: int = 1, families: tuple[Family, ...] = FAMILIES
) -> list[Score]:
    """The held-out table of a model that speaks the world's words.

    Args:
        network: A causal language model over `vocabulary()`.
        n: Examples of each family at most; small families have fewer.
        seed: Of the draw.
        families: Which to ask.

    Returns:
        One score a family.
    """
    return [
        Score(
            family=family.name,
            measure=family.measure,
            unseen=float(np.mean(unseen)),
            n=len(unseen),
            seen=float(np.mean(seen)),
            target=family.target,
            judged_on=family.judged_on,
        )
        for family in families
        for unseen in [score(network, _examples(family, n, seed, family.unseen), family.measure)]
        for seen in [score(network, _examples(family, n, seed, family.trainable), family.measure)]
    ]


def _examples(family: Family, n: int, seed: int, keep: Callable[[Example], bool]) -> list[Example]:
    # Without its corrupt partner, so that a prompt counts once whatever it is paired with.
    stream: Iterator[Example] = (
        replace(example, corrupt=None) for example in family.examples(np.random.default_rng(seed))
    )
    return list(islice(distinct(stream, n, keep), n))


@torch.no_grad()
def score(network: PreTrainedModel, examples: list[Example], measure: str) -> Float[np.ndarray, " example"]:
    """One number per example: 1 or 0 for "accuracy", the probability on right answers for "mass"."""
    words = vocabulary()
    prompts = [[words[BOS], *(words[piece] for piece in pieces(example.clean))] for example in examples]
    ids = torch.full((len(prompts), max(map(len, prompts))), words[PAD])
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    last = torch.tensor([len(prompt) - 1 for prompt in prompts])
    # Padding stands to the right, where a causal model cannot see it.
    logits: Tensor = network(input_ids=ids).logits[torch.arange(len(ids)), last].float()
    right = torch.zeros_like(logits)
    for row, example in enumerate(examples):
        # An answer that continues a word ("32" after "17") is a piece without the space that `pieces` puts first.
        cut = [pieces(answer[1:])[0] if answer.startswith(" ") else answer for answer in example.right]
        right[row, [words[piece] for piece in cut]] = 1.0
    if measure == "mass":
        return (logits.softmax(-1) * right).sum(-1).numpy()
    return right.gather(1, logits.argmax(-1, keepdim=True))[:, 0].numpy()
