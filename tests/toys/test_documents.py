"""Training rows hold whole documents that do not see each other."""

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from digsite.toys.tinyworld.documents import WIDTH, Author, Rows
from digsite.toys.tinyworld.training import config, weighted_loss
from digsite.toys.tinyworld.vocabulary import BOS, EOS, PAD


@pytest.fixture(scope="module")
def author():
    return Author()


@pytest.fixture(scope="module")
def rows(author):
    return author.step(seed=0, step=3, tokens=1500, notes=0.1)


def test_the_same_step_is_the_same_and_another_is_not(author, rows):
    again, other, seeded = (author.step(seed, step, 1500, 0.1) for seed, step in ((0, 3), (0, 4), (1, 3)))
    assert np.array_equal(rows.ids, again.ids)
    assert not np.array_equal(rows.ids[:4], other.ids[:4])
    assert not np.array_equal(rows.ids[:4], seeded.ids[:4])


def test_every_document_is_whole_counts_from_zero_and_has_one_answer(author, rows):
    bos, eos = author.words[BOS], author.words[EOS]
    documents = 0
    for row in range(len(rows.ids)):
        for number in range(rows.document[row].max() + 1):
            (inside,) = np.nonzero(rows.document[row] == number)
            assert np.array_equal(inside, np.arange(inside[0], inside[-1] + 1))
            assert rows.ids[row, inside[0]] == bos
            assert rows.ids[row, inside[-1]] == eos
            assert np.array_equal(rows.positions[row, inside], np.arange(len(inside)))
            assert rows.answer[row, inside].sum() == 1
            documents += 1
    assert rows.answer.sum() == documents
    assert np.all(rows.ids[rows.document < 0] == author.words[PAD])


def test_little_room_is_wasted(rows):
    assert rows.ids.shape[1] == WIDTH
    assert (rows.document >= 0).mean() > 0.85


def test_documents_come_in_their_shares(author):
    documents = author.documents(np.random.default_rng(0), notes=0.25)
    drawn = [ids for ids, _ in (next(documents) for _ in range(3000))]
    share = {family.name: family.share for family in author.families}
    for sign, expected in (("▁Notes", 0.25), ("▁lasted", 0.75 * share["greater than"] / sum(share.values()))):
        assert abs(np.mean([author.words[sign] in ids for ids in drawn]) - expected) < 0.03


@torch.no_grad()
def test_documents_in_one_row_do_not_see_each_other(rows):
    torch.manual_seed(0)
    network = LlamaForCausalLM(config()).eval()
    row = int(rows.document.max(1).argmax())
    together = weighted_loss(network, _cut(rows, row, slice(None)))
    total = weights = 0.0
    for number in range(rows.document[row].max() + 1):
        (inside,) = np.nonzero(rows.document[row] == number)
        alone = weighted_loss(network, _cut(rows, row, slice(inside[0], inside[-1] + 1)))
        weight = len(inside) - 1 + 3.0  # its one answer weighs four
        total, weights = total + weight * float(alone), weights + weight
    assert float(together) == pytest.approx(total / weights, rel=1e-5)


def _cut(rows: Rows, row: int, columns: slice) -> Rows:
    return Rows(*(part[row : row + 1, columns] for part in (rows.ids, rows.positions, rows.document, rows.answer)))
