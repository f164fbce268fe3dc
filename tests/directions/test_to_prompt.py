"""A text with a vector's effect is found where one is known to exist, and its share of the effect is measured apart."""

import pytest
import torch

import digsite
from digsite._core.errors import BadInput
from digsite.artifacts import load_result
from digsite.directions import Direction
from digsite.directions.steering import prompt_for
from digsite.directions.steering.to_prompt import _Search
from digsite.models import made_by
from digsite.sites import Site

LAST = "layers.3.resid_post"
PREFIX = "When Mary"
PLACES = ("park", "market", "school", "garden", "station", "office", "store", "house")


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


def told(before=""):
    return [f"{before}and John went to the {place}, John gave a book to" for place in PLACES]


@pytest.fixture(scope="module")
def vector(model):
    """What "When Mary" in front does to the last stream, on average: the effect of a known text."""
    site = Site.parse(LAST)
    ends = [
        model.run(model.tokens(some), read=[site], at=-1, logits=None)[site] for some in (told(PREFIX + " "), told())
    ]
    difference = (ends[0] - ends[1]).flatten(1).mean(0)
    return Direction(site=site, vector=difference, name=PREFIX, provenance=made_by("prefix", model))


@pytest.fixture(scope="module")
def found(model, vector):
    edits = [vector.add(1.0, at=-1)]
    return prompt_for(model, edits, model.tokens(told()), length=2, words=["Mary", "park"], draws=8, sweeps=2)


def test_a_text_with_most_of_the_effect_is_found_and_beats_chance(found):
    rows = {row["prefix"]: row for row in found.to_frame().to_dicts()}
    assert rows["found"]["share"] > 0.5 and rows["no prefix"]["share"] == 0
    assert rows["found"]["kl"] < found.null.min()
    assert rows["found"]["kl"] <= rows["best word"]["kl"] or "no better than the word" in found.verdict
    assert found.history[0] > found.history[-1] and bool((found.history.diff() <= 0).all())
    assert rows["found"]["n"] == 4


def test_the_text_is_cut_back_into_its_tokens_and_the_kl_is_what_running_it_gives(model, vector, found):
    assert model.tokens([found.text], special=False).ids[0].tolist() == found.ids.tolist() and len(found.ids) == 2
    assert not set(found.ids.tolist()) & set(model.tokenizer.all_special_ids)
    search = _Search(model, [vector.add(1.0, at=-1)], model.tokens(told()), 0)
    for at, kl in zip(search.test, found.kl[0], strict=True):
        steered = model.run(model.tokens([told()[at]]), edits=[vector.add(1.0, at=-1)], logits=1).logits[0, -1]
        plain = model.run(model.tokens([told(found.text + " ")[at]]), logits=1).logits[0, -1]
        log_p, log_q = steered.log_softmax(-1), plain.log_softmax(-1)
        torch.testing.assert_close((log_p.exp() * (log_p - log_q)).sum(), kl, atol=1e-4, rtol=1e-3)


def test_the_gradient_ranks_tokens_as_a_small_step_towards_them_does(model, vector):
    search = _Search(model, [vector.add(1.0, at=-1)], model.tokens(told()), 0)
    ids = search.random(2)
    ranked = search.ranked(ids, 1)
    assert sorted(ranked.tolist()) == search.usable.tolist()
    W_E = model.weights.W_E.detach()

    def stepped(token):
        rows = search.rows([ids], search.train)
        columns = torch.tensor([start + 2 for start in rows.starts])
        step = torch.zeros(*rows.ids.shape, model.d_model)
        step[torch.arange(len(rows)), columns] = 1e-2 * (W_E[token] - W_E[ids[1]])
        logits = model.run(rows, edits=[digsite.add("embed", step)], logits=1).logits[:, -1]
        return float(search._divergence(logits, search.train).mean())

    first, last = (sum(stepped(int(token)) for token in some) for some in (ranked[:3], ranked[-3:]))
    assert first < last


def test_the_result_comes_back_from_its_folder(found, tmp_path):
    assert load_result(found.save(tmp_path / "prompt")).verdict == found.verdict


def test_bad_input_says_what_is_wrong(model, vector):
    tokens = model.tokens(told())
    with pytest.raises(BadInput, match=r"4 prompts or more(.|\n)*Found: 2 prompts, length 3"):
        prompt_for(model, [vector.add(1.0)], tokens[:2])
    with pytest.raises(BadInput, match="a length of 1 or more"):
        prompt_for(model, [vector.add(1.0)], tokens, length=0)
    with pytest.raises(BadInput, match="steering changes nothing"):
        prompt_for(model, [vector.add(0.0)], tokens, length=1, sweeps=1, draws=1)
