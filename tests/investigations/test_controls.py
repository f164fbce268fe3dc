"""Tasks in which there is nothing to find keep everything but what they take away."""

import polars as pl
import pytest
import torch

import digsite
from digsite._core.errors import BadInput
from digsite.investigations.controls import others_answers, random_prompts
from digsite.tasks import Task


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def ioi(model):
    return digsite.tasks.ioi(model, n=12)


PROMPTS = ["When Mary and John went to the store, John gave a drink to", "The cat and Mary", "John saw Tom"]
CORRUPT = ["When Mary and John went to the store, Mary gave a drink to", "The cat and John", "Mary saw Tom"]
RIGHT, WRONG = (" Mary", " John went", " and the cat"), (" John", " Tom", " to Mary")


def written(model, order):
    """Answers of one to three tokens, each with rows of its own; those of other examples where the order says so."""
    frame = {"clean": PROMPTS, "corrupt": CORRUPT}
    frame |= {"right": [RIGHT[i] for i in order], "wrong": [WRONG[i] for i in order]}
    return Task.from_frame(model, pl.DataFrame(frame), corrupt="corrupt", wrong="wrong")


@pytest.fixture(scope="module")
def long(model):
    return written(model, (0, 1, 2))


@pytest.mark.parametrize("name", ["ioi", "long"])
def test_random_prompts_keep_lengths_specials_answers_and_where_pairs_differ(model, name, request):
    task = request.getfixturevalue(name)
    made = random_prompts(model, task, seed=3)
    assert made.corrupt is not None and task.corrupt is not None
    special = torch.tensor(model.tokenizer.all_special_ids)
    for old, new in ((task.clean, made.clean), (task.corrupt, made.corrupt)):
        assert torch.equal(old.mask, new.mask) and new.bos == old.bos
        assert torch.equal(torch.isin(old.ids, special), torch.isin(new.ids, special))
    assert made.right is task.right and made.spans is task.spans
    differ = task.clean.ids != task.corrupt.ids
    assert not (made.clean.ids != made.corrupt.ids)[~differ].any()
    assert (made.clean.ids != made.corrupt.ids)[differ].float().mean() > 0.9
    forced = (
        torch.tensor([task.clean.lengths[row] for row in range(len(task.clean))])
        - torch.tensor(task.prompt_lengths)[task.example_rows]
    )
    for row, tail in enumerate(forced.tolist()):
        width = task.clean.ids.shape[1]
        assert torch.equal(made.clean.ids[row, width - tail :], task.clean.ids[row, width - tail :])
    changed = (made.clean.ids != task.clean.ids)[task.clean.mask & ~torch.isin(task.clean.ids, special)]
    assert changed.float().mean() > 0.5


def test_rows_of_one_example_get_the_same_random_prompt(model, long):
    made = random_prompts(model, long, seed=0)
    for example, length in enumerate(long.prompt_lengths):
        rows = (long.example_rows == example).nonzero().flatten().tolist()
        prompts = {tuple(made.clean.ids[row][made.clean.mask[row]][:length].tolist()) for row in rows}
        assert len(rows) == 2 and len(prompts) == 1


def test_random_prompts_hold_ordinary_words_of_the_whole_vocabulary(model, ioi):
    made = random_prompts(model, ioi, seed=0)
    again = random_prompts(model, ioi, seed=0)
    assert torch.equal(made.clean.ids, again.clean.ids), "the seed decides"
    assert not torch.equal(made.clean.ids, random_prompts(model, ioi, seed=1).clean.ids)
    assert len(made.clean.ids.unique()) > len(ioi.clean.ids.unique())


def test_shuffled_answers_are_those_of_other_examples_right_and_wrong_together(model, ioi):
    made = others_answers(ioi, seed=1)
    pairs = {(int(a), int(b)) for a, b in zip(ioi.right.ids.flatten(), ioi.wrong.ids.flatten(), strict=True)}
    assert {(int(a), int(b)) for a, b in zip(made.right.ids.flatten(), made.wrong.ids.flatten(), strict=True)} == pairs
    assert not torch.equal(made.right.ids, ioi.right.ids) and made.clean is ioi.clean
    logits = model.run(ioi.clean, logits=1).logits
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    right, wrong = (logits[torch.arange(12), -1, side.ids[order, 0, 0]] for side in (ioi.right, ioi.wrong))
    torch.testing.assert_close(made.metric(logits), right - wrong)


def test_shuffled_long_answers_are_scored_as_if_they_had_been_given(model, long):
    made = others_answers(long, seed=1)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(1)).tolist()
    given = written(model, order)
    ours = made.metric(model.run(made.clean, logits=made.keep).logits)
    theirs = given.metric(model.run(given.clean, logits=given.keep).logits)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert made.corrupt is not None and made.corrupt.lengths == made.clean.lengths


def test_answers_that_are_all_the_same_cannot_be_shuffled(ioi):
    with pytest.raises(BadInput, match="The answers are the same in all examples"):
        others_answers(ioi.take([0]))
