"""The main job on a real (small) trained model, and on a model that knows nothing."""

import json

import pytest
import torch

from architectures import tiny
from paired import paired_task


@pytest.fixture(scope="module")
def answer():
    import digsite

    model = digsite.load("digsite/tinyworld", verify=False)
    task = digsite.tasks.ioi(model, n=32)
    return digsite.investigate(model, task, random_sets=20, random_examples=10)


def test_it_does_the_task_and_the_set_beats_chance(answer):
    assert answer.accuracy[1] > 0.8 and answer.does_the_task
    assert answer.holds, answer.verdict
    assert answer.ablation.kept[0] > 0.6 and answer.ablation.left[0] < 0.3
    assert len(answer.ablation.components) < len(answer.denoise.sites)


def test_the_set_is_judged_on_examples_that_did_not_choose_it(answer):
    assert answer.selection == 16
    assert len(answer.ablation.keep) == len(answer.correct) - answer.selection


def test_the_circuit_of_edges_beats_random_ones_on_examples_that_did_not_choose_it(answer):
    row = answer.kept_by_edges
    assert len(answer.edges.full) == len(answer.correct) - answer.selection
    assert row["low"] > row["random_best"] and row["kept"] > 0.7
    assert 0 < len(answer.circuit) < 0.5 * len(answer.circuit.space)
    assert f"{len(answer.circuit)} of {len(answer.circuit.space):,} edges" in answer.verdict


def test_every_claim_carries_its_control(answer):
    claims = answer.claims()
    assert len(claims) == 2 + len(answer.ablation.components)
    for claim in claims:
        assert claim.low <= claim.effect <= claim.high and claim.n > 0
        assert torch.isfinite(torch.tensor([claim.effect, claim.null])).all()
    assert answer.to_frame().height == len(claims)


def test_the_verdict_says_what_failed(answer):
    failed = sum(not claim.supported for claim in answer.claims()[2:])
    assert (f"{failed} of its" in answer.verdict) == bool(failed)


def test_the_summary_is_json_with_stable_keys(answer):
    data = json.loads(json.dumps(answer.summary()))
    assert {"accuracy", "knockout", "keep", "random", "cost", "provenance", "components", "claims"} <= set(data)
    assert data["random"]["sets"] == 20
    assert data["cost"]["forwards"] > 0 and data["provenance"]["weights"]


def test_it_comes_back_from_disk(answer, tmp_path):
    from digsite.artifacts import load_result
    from digsite.investigations import Investigation

    answer.save(tmp_path / "result")
    again = load_result(tmp_path / "result")
    assert isinstance(again, Investigation)
    assert again.verdict == answer.verdict
    torch.testing.assert_close(again.denoise.patched, answer.denoise.patched, rtol=0, atol=0)


def test_the_report_is_one_page_that_asks_nothing_of_the_network(answer, tmp_path):
    page = answer.report(tmp_path / "report.html").read_text()
    assert answer.question in page and "random sets" in page
    assert "://" not in page.replace("http://www.w3.org/", "")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answer(answer):
    import digsite

    model = digsite.load("digsite/tinyworld", verify=False)
    task = digsite.tasks.ioi(model, n=32)
    again = digsite.investigate(model, task, random_sets=20, random_examples=10)
    assert again.ablation is not None
    assert again.ablation.components == answer.ablation.components
    torch.testing.assert_close(again.ablation.random_keep, answer.ablation.random_keep)


@pytest.mark.slow
def test_a_model_that_knows_nothing_gets_no_set():
    from digsite.investigations import investigate
    from digsite.models.load import wrap

    class Speller:
        all_special_tokens = ()

        def decode(self, ids):
            return " ".join(map(str, ids))

        def convert_ids_to_tokens(self, token):
            return str(token)

        def convert_tokens_to_string(self, pieces):
            return "".join(pieces)

    model = wrap(tiny("llama"), None, name="random", revision=None, attention="eager")
    task = paired_task(n=12)
    object.__setattr__(task.clean, "tokenizer", Speller())
    correct = task.metric(model.run(task.clean, logits=1).logits, "accuracy")
    worst = task.take(correct.argsort()[:8])
    answer = investigate(model, worst, random_sets=4)
    if answer.does_the_task:
        pytest.skip("the random model got lucky")
    assert answer.ablation is None and not answer.holds
    assert answer.circuit is None and answer.no_circuit
    assert "It does not do the task" in answer.verdict and answer.claims() == []


def test_too_few_examples_are_refused():
    from digsite.investigations import investigate
    from digsite.models.load import wrap

    model = wrap(tiny("llama"), None, name="random", revision=None, attention="eager")
    with pytest.raises(ValueError, match="An investigation needs at least 8 examples"):
        investigate(model, paired_task(n=4))
