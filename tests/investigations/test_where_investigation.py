"""Where something is represented: a direction that is known to be there, and models and labels where there is none."""

import json
from dataclasses import replace

import pytest
import torch

import digsite
from architectures import tiny
from digsite.directions.texts import by_answer
from digsite.investigations import WhereInvestigation
from digsite.investigations.controls import others_answers
from digsite.investigations.where import _grouped, _without_the_task, where
from digsite.models import untrained
from digsite.models.load import wrap
from paired import paired_task


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def gender(model):
    inside = digsite.tasks.gendered_pronoun(
        model, n=120, seed=3, keep=lambda example: example.right[0].strip()[0].islower()
    )
    task = digsite.tasks.gendered_pronoun(model, n=200)
    return where(model, task, name="gender", others={"inside a sentence": inside})


def test_gender_is_read_used_steered_with_and_carried_over(gender):
    assert gender.holds, gender.verdict
    assert [claim.supported for claim in gender.claims()] == [True] * 6
    assert gender.place == "answer" and gender.by == "answer" and gender.failures() == []


def test_the_verdict_has_the_four_parts(gender):
    said = gender.verdict
    parts = ("gender is read best at layers.", "the model uses it", "it steers", "it carries over to 1 of 1")
    order = [said.index(part) for part in parts]
    assert order == sorted(order) and gender.neutral in said and "but " not in said


def test_the_place_is_judged_on_examples_that_did_not_choose_it(gender):
    assert gender.selection + gender.card.trained + len(gender.card.on("held out").labels) <= 200
    assert len(gender.causal.base) <= 200 - gender.selection - gender.card.trained
    assert gender.card.direction.site == gender.sweep.direction().site == gender.causal.direction.site


def test_prompts_that_begin_alike_and_tell_the_label_are_one_group(model):
    task = digsite.tasks.gendered_pronoun(model, n=80)
    names = task.row_spans("name")[:, 1] - 1
    grouped = _grouped(by_answer(task), {"name": names})
    number = {}
    for row, end in enumerate(names.tolist()):
        number.setdefault(tuple(task.clean.strings[row][: end + 1]), set()).add(int(grouped.groups[row]))
    assert all(len(one) == 1 for one in number.values()) and len(number) == len(grouped.groups.unique())
    first = _grouped(by_answer(task), {"start": torch.zeros(80, dtype=torch.long)})
    assert len(first.groups.unique()) == len(by_answer(task).groups.unique())  # <bos> tells no label


def test_answers_of_other_examples_are_represented_nowhere(model):
    found = where(model, others_answers(digsite.tasks.gendered_pronoun(model, n=120)), draws=10)
    assert not found.holds and "not shown that" in found.verdict
    read, _, used = found.claims()[1:4]
    assert not read.supported and not used.supported


@pytest.mark.slow
def test_a_model_of_random_weights_does_not_use_it(model):
    found = where(untrained(model), digsite.tasks.gendered_pronoun(model, n=120), draws=10)
    assert not found.holds and "it is not shown that the model uses it" in found.verdict
    assert "as no text was given" in found.neutral and found.transfer is None
    assert "was not tried" in found.verdict


@pytest.mark.slow
def test_a_task_without_two_answers_is_told_apart_by_clean(model):
    found = where(model, digsite.tasks.greater_than(model, n=80))
    assert found.by == "clean" and "clean or corrupt" in found.verdict and "corrupt prompts" in found.steer.target


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_gender_is_found_under_other_draws(model, seed):
    found = where(model, digsite.tasks.gendered_pronoun(model, n=280, seed=seed), seed=seed)
    assert found.holds, found.verdict


def test_it_comes_back_from_disk_as_it_was(gender, tmp_path):
    again = digsite.load_result(gender.save(tmp_path / "result") or tmp_path / "result")
    assert again.verdict == gender.verdict and isinstance(again, WhereInvestigation) and again.place == gender.place
    assert gender.to_frame().height == 6
    assert json.loads(json.dumps(gender.summary()))["holds"] is True


def test_the_page_answers_in_a_sceptics_order_and_asks_nothing_of_the_network(gender, tmp_path):
    page = gender.report(tmp_path / "report.html").read_text(encoding="utf-8")
    titles = ("Where can it be read?", "did not choose the place?", "Does the model use it?", "Does adding it steer",
              "Does it carry over", "What each claim rests on")  # fmt: skip
    order = [page.index(title) for title in titles]
    assert order == sorted(order) and gender.question in page
    assert "://" not in page.replace("http://www.w3.org/", "")


def test_bad_input_is_refused_with_what_to_do(model):
    task = digsite.tasks.gendered_pronoun(model, n=80)
    with pytest.raises(ValueError, match="needs 80 examples or more"):
        where(model, task.take(slice(0, 20)))
    with pytest.raises(ValueError, match="No label can be made"):
        where(model, replace(digsite.tasks.ioi(model, n=80), corrupt=None))
    with pytest.raises(ValueError, match="is that of the task itself"):
        where(model, digsite.tasks.gendered_pronoun(model, n=160), others={task.name: task}, draws=2)
    with pytest.raises(ValueError, match="The answers of number are not those"):
        other = digsite.tasks.subject_verb_agreement(model, n=40)
        where(model, digsite.tasks.gendered_pronoun(model, n=160), others={"number": other}, draws=2)


def test_a_model_that_tokenises_no_family_needs_text():
    bare = wrap(tiny("llama"), None, name="random", revision=None, attention="eager")
    with pytest.raises(ValueError, match="none was given"):
        _without_the_task(bare, paired_task(n=8), 0)
