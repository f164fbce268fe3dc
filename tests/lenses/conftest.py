"""A small text, and lenses that were fitted on it, for all tests of lenses."""

import random

import pytest

import digsite
from digsite.lenses import fit_jacobian, fit_tuned
from digsite.tasks import Corpus


@pytest.fixture(scope="session")
def world():
    return digsite.load("digsite/tinyworld")


@pytest.fixture(scope="session")
def halves(world):
    """Text of the built-in world: to learn from, and held out."""
    tasks = [digsite.tasks.ioi(world, n=400, seed=0), digsite.tasks.subject_verb_agreement(world, n=400, seed=0)]
    rows = [row[mask] for task in tasks for row, mask in zip(task.clean.ids, task.clean.mask, strict=True)]
    texts = [world.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    random.Random(0).shuffle(texts)
    corpus = Corpus.of(texts, world, length=24, name="sentences")
    return corpus.split(len(corpus) - 24)


@pytest.fixture(scope="session")
def tuned(world, halves):
    return fit_tuned(world, *halves, steps=40, batch=8)


@pytest.fixture(scope="session")
def jacobian(world, halves):
    return fit_jacobian(world, halves[0], prompts=4, skip=2)
