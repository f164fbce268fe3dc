"""Prompts of two halves of the words, to find a direction on and to judge it on, and who they are about."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from digsite import Model, Task, Tokens, tasks
from digsite.directions.probes import LabelledPrompts
from digsite.tasks.examples import Example
from digsite.tasks.words import FEMALE, MALE, NAMES, NOUNS

SHE, HE = (" she", " She"), (" he", " He")
PROMPTS, NEUTRAL = 96, 128


def pronouns(model: Model, part: int) -> Task:
    """Prompts about half of the names: those of the even places, or of the odd ones."""
    return tasks.gendered_pronoun(model, n=PROMPTS, female=FEMALE[part::2], male=MALE[part::2], seed=part)


def verbs(model: Model, part: int) -> Task:
    """Prompts with half of the nouns as subjects."""
    subjects = {word for pair in list(NOUNS.items())[part::2] for word in pair}

    def kept(example: Example) -> bool:
        return example.clean.split()[1] in subjects

    return tasks.subject_verb_agreement(model, n=NEUTRAL, keep=kept, seed=part)


def are_hers(task: Task) -> Bool[Tensor, " example"]:
    """Which prompts "she" follows."""
    return torch.tensor([right[0] in SHE for right in task.right.texts])


def name_ends(task: Task) -> Int[Tensor, " example"]:
    """The last token of the name in each prompt."""
    return task.spans["name"][:, 1] - 1


def who(task: Task) -> Int[Tensor, " example"]:
    """Which name each prompt is about."""
    spans = zip(task.clean.strings, task.spans["name"].tolist(), strict=True)
    return torch.tensor([NAMES.index("".join(tokens[start:stop]).strip()) for tokens, (start, stop) in spans])


def labelled(task: Task, name: str, at: int | Tensor) -> LabelledPrompts:
    """The prompts, with "she" as the label."""
    return LabelledPrompts(name=name, tokens=task.clean, labels=are_hers(task), at=at)


def events(model: Model, several: Sequence[Task], name: str, label: Callable[[Task], list[bool]]) -> LabelledPrompts:
    """Events of all pairs of people in one language, with a label each and the pair as the group."""
    rows = [
        side.ids[at][side.mask[at]].tolist() for task in several for side in _sides(task) for at in range(len(side))
    ]
    groups = torch.tensor([pair for pair, task in enumerate(several) for _ in range(2 * len(task))])
    labels = torch.tensor([yes for task in several for yes in label(task)])
    return LabelledPrompts(name=name, tokens=model.tokens(rows), labels=labels, groups=groups)


def _sides(task: Task) -> tuple[Tokens, Tokens]:
    return task.clean, task.require_corrupt()


def woman(task: Task) -> list[bool]:
    """Whether a woman receives, in the clean prompts and then in the corrupt ones."""
    return [answers[0].strip() in FEMALE for side in (task.right, task.wrong) for answers in side.texts]


def first_named(task: Task) -> list[bool]:
    """Whether the one who receives was named before the other."""
    found = []
    for side, right, wrong in zip(_sides(task), (task.right, task.wrong), (task.wrong, task.right), strict=True):
        for ids, receiver, giver in zip(side.ids.tolist(), right.ids[:, 0, 0], wrong.ids[:, 0, 0], strict=True):
            found.append(ids.index(int(receiver)) < ids.index(int(giver)))
    return found
