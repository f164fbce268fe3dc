"""A sweep reads once, finds where a label is, and does not call the luckiest of many cells a finding."""

import pytest
import torch

import digsite
from digsite._core.errors import BadInput
from digsite.directions import labelled_rows
from digsite.directions.labelled import yes_or_no
from digsite.directions.probes import (
    attention_probe,
    class_probe,
    contrast_probe,
    number_probe,
    probe_sweep,
    task_sweep,
)
from digsite.directions.texts import own_texts

STREAM = "layers.*.resid_post"
GIRLS, BOYS = ("Amy", "Lily", "Julia", "Mary", "Anna", "Sue"), ("John", "Tim", "Jake", "Tom", "Ben", "Max")
RESTS = ("had a ball", "was happy", "saw the big dog", "sat")


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def texts(model):
    """A noun at position 1 says the label; what follows is the same; and a word that says nothing comes first."""
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randint(20, 300, (48, 6), generator=drawn)
    rows[:, 0] = 1
    rows[:, 2] = torch.where(torch.arange(48) % 2 == 0, 40, 41)
    return model.tokens(rows), torch.arange(48) % 2 == 0


def test_a_label_is_read_where_its_token_has_been_and_not_before(model, texts):
    tokens, labels = texts
    found = probe_sweep(model, tokens, labels, ["embed", STREAM], fit="lda", draws=10)
    grid = found.auroc.unflatten(0, (5, 6))
    assert grid[0, 2] == 1 and bool((grid[:, 2] > 0.75).all()) and bool((grid[0, 3:] < 0.85).all())
    assert bool((grid[:, 0] == 0.5).all()), "the first token is the same in all texts"
    assert found.cost.forwards == 2 and found.cost.rows == 48  # one reading of the texts
    assert found.places == tuple("012345") * 5 and found.shown[2] == "…"
    assert found.best.auroc == 1 and "reach 0." in found.verdict
    direction = found.direction()
    assert direction.site.name in ("embed", "resid_post")
    read = direction.read(model.run(tokens, read=[direction.site], logits=None))[:, int(found.places[found.best.cell])]
    assert bool(((read > 0) == labels).all())


@pytest.mark.parametrize("fit", ["logistic", "mean-difference"])
def test_padding_on_either_side_and_batches_change_nothing(model, fit):
    words = [f"{name} {rest}" for name in GIRLS + BOYS for rest in RESTS]
    labels = torch.arange(48) < 24
    found = []
    for padding, batch in (("right", 48), ("left", 48), ("left", 7)):
        tokens = model.tokens(words, padding=padding)
        sweep = probe_sweep(model, tokens, labels, STREAM, at=[1, -1], fit=fit, draws=2, batch=batch)
        found.append(sweep.scores)
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found[2], found[0], atol=1e-3, rtol=1e-3)


def test_the_best_of_many_cells_is_judged_by_examples_that_did_not_choose_it(model):
    """Labels that say nothing: the largest of all cells is well above chance, the judged one is not."""
    largest, judged = [], []
    tokens = model.tokens(torch.randint(20, 300, (60, 12), generator=torch.Generator().manual_seed(1)))
    for seed in range(6):
        labels = torch.randperm(60, generator=torch.Generator().manual_seed(seed)) < 30
        found = probe_sweep(model, tokens, labels, STREAM, fit="mean-difference", draws=3, seed=seed)
        largest.append(float(found.auroc.max()))
        judged.append(found.best.auroc)
    assert min(largest) > 0.58
    assert abs(sum(judged) / 6 - 0.5) < 0.12


def test_a_sweep_says_when_shuffled_labels_do_as_well(model, texts):
    tokens, _ = texts
    labels = torch.randperm(48, generator=torch.Generator().manual_seed(0)) < 24
    found = probe_sweep(model, tokens, labels, STREAM, at=-1, fit="lda")
    assert "it is not shown that the label can be read anywhere" in found.verdict


def test_a_task_is_told_apart_by_its_answer_or_into_clean_and_corrupt(model):
    task = digsite.tasks.gendered_pronoun(model, n=120)
    found = task_sweep(model, task, STREAM, fit="lda", draws=5)
    assert found.label in ("gendered-pronoun: she or he", "gendered-pronoun: he or she") and set(found.places) == {
        "name",
        "answer",
    }
    assert found.best.auroc > 0.95
    clean = task_sweep(model, task, STREAM, by="clean", at=["answer"], fit="lda", draws=5)
    assert (
        clean.label.endswith("clean or corrupt") and clean.best.auroc < 0.75
    )  # a prompt is no more clean than its pair
    with pytest.raises(BadInput, match="has not two answers"):
        task_sweep(model, digsite.tasks.ioi(model, n=40), by="answer")


def test_every_token_of_a_text_is_labelled_and_its_tokens_stay_together(model):
    words = [f"{name} had a ball" for name in GIRLS + BOYS]
    tokens = model.tokens(words)
    rows = labelled_rows(model, tokens, [name in GIRLS for name in GIRLS + BOYS], "layers.1.resid_post", at=None)
    assert rows.rows.count == sum(tokens.lengths) - 12 and rows.groups is not None
    assert rows.rows.ids is not None and bool((rows.rows.ids != model.tokenizer.bos_token_id).all())
    assert torch.equal(rows.labels, rows.groups < 6)
    assert rows.provenance is not None and rows.provenance.weights == model.fingerprint
    each = labelled_rows(model, tokens, tokens.ids == tokens.ids[0, 1], "layers.1.resid_post", at=None)
    assert each.labels.sum() == 1


def test_an_attention_probe_reads_whole_texts(model):
    drawn = torch.Generator().manual_seed(0)
    rows, labels = torch.randint(60, 300, (60, 9), generator=drawn), torch.arange(60) % 2 == 0
    place = torch.randint(1, 9, (60,), generator=drawn)
    rows[torch.arange(60), place] = torch.where(labels, 40, 41)
    found = attention_probe(model, model.tokens(rows), labels, "embed", draws=3, penalty=1.0)
    assert found.to_frame()["auroc"][0] > 0.9 and "held-out texts" in found.verdict
    assert found.weights.shape == (30, 9) and torch.allclose(found.weights.sum(1), torch.ones(30).double())


def test_classes_are_never_an_order(model):
    """The class in the middle by its code lies at an end of the line, and codes of any size mean the same."""
    tokens = model.tokens(torch.tensor([[1, 30 + i % 3, 50 + i // 3] for i in range(60)]))
    codes = torch.arange(60) % 3
    found = class_probe(model, tokens, codes, "layers.1.resid_post", at=1, draws=3)
    renamed = class_probe(
        model, tokens, [{0: "z", 1: "m", 2: "b"}[int(c)] for c in codes], "layers.1.resid_post", at=1, draws=3
    )
    assert found.accuracy == 1 and renamed.accuracy == 1 and renamed.names == ("b", "m", "z")
    assert float(found.null.mean()) < 0.6 and len(found.directions) == 3 and len(found.subspace) == 2
    run = model.run(tokens, read=["layers.1.resid_post"], logits=None)
    assert found.read(run).shape == (60, 3, 3)
    assert float((found.read(run)[:, 1].argmax(-1) == codes).double().mean()) == 1
    with pytest.raises(BadInput, match="two or more"):
        class_probe(model, tokens, [1] * 60, "layers.1.resid_post")
    with pytest.raises(BadInput, match="none of rare"):
        class_probe(model, tokens, ["rare"] + ["a", "b"] * 29 + ["a"], "layers.1.resid_post")


def test_a_contrast_probe_says_whether_its_sign_was_supervised(model):
    yes, no = ([f"{name} was happy . {end}" for name in GIRLS + BOYS for _ in range(2)] for end in ("She", "He"))
    truth = torch.tensor([name in GIRLS for name in GIRLS + BOYS for _ in range(2)])
    free = contrast_probe(
        model, model.tokens(yes), model.tokens(no), truth, STREAM.replace("*", "2"), supervise_sign=False
    )
    turned = contrast_probe(
        model, model.tokens(yes), model.tokens(no), ~truth, STREAM.replace("*", "2"), supervise_sign=False
    )
    assert torch.equal(free.probabilities, turned.probabilities), "labels are not looked at"
    assert free.sign == "arbitrary" and "no pair says which is right" in free.verdict
    known = contrast_probe(model, model.tokens(yes), model.tokens(no), truth, STREAM.replace("*", "2"))
    assert known.sign == "supervised" and "sign supervised" in known.verdict
    frame = known.to_frame()
    assert frame["auroc"][0] + frame["auroc"][1] == pytest.approx(1)


def test_own_texts_have_two_labels_or_say_which_is_meant(model):
    frame = {"text": ["Tom ran", "Tom ran", "Amy sat", "Mary sat"], "label": ["boy", "boy", "girl", "girl"]}
    name, _, labels, groups = own_texts(model, frame)
    assert name == "boy or girl" and labels.tolist() == [True, True, False, False] and groups.tolist() == [0, 0, 1, 2]
    assert own_texts(model, frame | {"label": ["0", "0", "1", "1"]}).labels.tolist() == [False, False, True, True]
    assert own_texts(model, frame, yes="girl").labels.tolist() == [False, False, True, True]
    assert own_texts(model, frame | {"group": ["a", "b", "a", "b"]}).groups.tolist() == [0, 1, 0, 1]
    with pytest.raises(BadInput, match="tells two labels apart"):
        own_texts(model, frame | {"label": ["a", "b", "c", "c"]})
    with pytest.raises(BadInput, match="lacks the column 'label'"):
        own_texts(model, {"text": ["x"]})
    with pytest.raises(BadInput, match="empty cell in row 1"):
        own_texts(model, frame | {"label": ["a", None, "b", "b"]})


def test_what_cannot_be_swept_is_refused_with_its_reason(model, texts):
    tokens, labels = texts
    uneven = model.tokens(["Tom ran", "Amy sat on the mat"] * 24)
    with pytest.raises(BadInput, match="texts of one length"):
        probe_sweep(model, uneven, labels)
    with pytest.raises(BadInput, match="Position 9 is outside row 0"):
        probe_sweep(model, tokens, labels, at=9)
    with pytest.raises(BadInput, match="No fit 'pca-of-pairs' is solved for many cells"):
        probe_sweep(model, tokens, labels, fit="pca-of-pairs")
    with pytest.raises(BadInput, match="one width"):
        probe_sweep(model, tokens, labels, ["layers.0.resid_post", "layers.0.mlp.act"])
    with pytest.raises(BadInput, match="examples of each label"):
        probe_sweep(model, tokens, torch.arange(48) < 2)
    with pytest.raises(BadInput, match="yes or no"):
        yes_or_no([1.0, float("nan")])
    with pytest.raises(BadInput, match="cannot be read"):
        number_probe(model, tokens, torch.ones(48, 1), "layers.0.resid_post")
