"""The battery lets true findings pass and catches planted artefacts; support is refused where it does."""

import re
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import digsite
from digsite._core.errors import BadInput
from digsite.circuits import eap_ig
from digsite.graphs import edge_space
from digsite.graphs.circuit import circuit
from digsite.investigations import BatteryResult, battery, examine
from digsite.investigations.battery import RANDOM_MODELS, beats, rows_needed, second_metric
from digsite.investigations.subjects import Effect
from digsite.journal import Dig
from digsite.models import untrained
from digsite.toys.aligned import PROGRAMS, aligned
from digsite.toys.compiled import compile_program
from slowly import slow_but

NAME = "aligned-induction"
HEADS = ("layers.0.attn.z[1]", "layers.1.attn.z[2]")
OTHER = "layers.1.attn.z[0]"


@pytest.fixture(scope="module")
def toy():
    return aligned(NAME)


@pytest.fixture(scope="module")
def pairs(toy):
    return toy.task(48), toy.task(48, seed=1)


def nodes(toy):
    return sorted(node.replace(".result[", ".z[") for node in toy.nodes if node.startswith("layers."))


@pytest.fixture(scope="module")
def passed(toy, pairs):
    task, again = pairs
    return battery(toy.model, task, HEADS[1], again=again)


@pytest.fixture(scope="module")
def planted(toy, tmp_path_factory):
    """A model of random weights, and the circuit that EAP-IG finds in it."""
    folder = tmp_path_factory.mktemp("planted")
    model = untrained(toy.model, seed=100)
    eap_ig(model, toy.task(48)).circuit(0.2).save(folder / "circuit")
    return model, folder


# -- what is true passes ----------------------------------------------------------------------------------------------
def test_a_head_of_the_program_passes_all_five_checks(passed):
    assert passed.passed and passed.failed == (), passed.verdict
    assert passed.verdict.endswith("it passes all five checks") and HEADS[1] in passed.verdict
    names = [check.name for check in passed.checks]
    weights = [f"random weights {i + 1}" for i in range(RANDOM_MODELS)]
    assert names == ["the claim itself", "null input", "shuffled labels", "other seed", *weights, "second metric"]
    assert [check.must for check in passed.checks] == [
        "persist",
        "vanish",
        "vanish",
        "persist",
        *["vanish"] * 3,
        "persist",
    ]
    assert [check.metric_name for check in passed.checks] == [*["logit_diff"] * 7, "prob"]


TRUE = [(name, node) for name in PROGRAMS for node in nodes(aligned(name))]
QUICK = [("aligned-greater", "layers.1.mlp.out")]


@pytest.mark.parametrize(("name", "node"), slow_but(QUICK, TRUE))
def test_nodes_of_aligned_programs_pass(name, node):
    toy = aligned(name)
    result = battery(toy.model, toy.task(64), node, again=toy.task(64, seed=1))
    assert result.passed, result.verdict


@pytest.mark.parametrize("subject", slow_but(["behaviour", "circuit"], ["behaviour", "circuit", ", ".join(HEADS)]))
def test_the_behaviour_the_set_and_the_circuit_of_a_program_pass(toy, pairs, subject, tmp_path):
    task, again = pairs
    space = edge_space(toy.model)
    made = circuit(space, toy.edges, name=NAME, method="the program", provenance=toy_provenance(toy))
    made.save(tmp_path / "circuit")
    result = battery(toy.model, task, subject, again=again, folder=tmp_path)
    assert result.passed, result.verdict


def toy_provenance(toy):
    from digsite.models import made_by

    return made_by("toy.edges", toy.model, None)


COMPILED = [("reverse", "layers.2.attn.z[0]"), ("induction", "layers.1.attn.z[0]")]


@pytest.mark.parametrize(("name", "head"), slow_but(COMPILED[:1], COMPILED))
def test_the_head_of_a_compiled_program_that_writes_the_answer_passes(name, head):
    toy = compile_program(name)
    result = battery(toy.model, toy.task(40), head, again=toy.task(40, seed=1))
    assert result.passed, result.verdict


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["layers.0.attn.z[5]", "layers.3.mlp.out", "behaviour"])
def test_what_tinyworld_does_ioi_with_passes(subject):
    model = digsite.load("digsite/tinyworld", verify=False)
    result = battery(model, digsite.tasks.ioi(model, n=40), subject)
    assert result.passed, result.verdict


# -- what is planted is caught ----------------------------------------------------------------------------------------
def test_a_circuit_that_was_found_on_random_weights_is_caught_and_support_is_refused(planted, pairs, tmp_path):
    (model, folder), (task, again) = planted, pairs
    dig = Dig.init(tmp_path / "dig")
    digsite.load_result(folder / "circuit").save(dig.folder / "found")
    setting = {"model": model.name, "task": task.name}
    number = dig.findings.add("These edges do induction", level="circuit", subject="found", setting=setting).id
    finding, result = examine(dig, number, model, task, again=again)
    assert not result.passed and result.failed
    assert float(result.checks[0].effect.mean()) / result.checks[0].whole > 0.8, "faithful, and yet about nothing"
    assert finding.evidence[0].stance == "battery" and finding.status == "open"
    with pytest.raises(BadInput, match=rf"(?s)cannot be called supported.*{re.escape(result.failed[0][:30])}"):
        dig.findings.support(number)
    assert dig.findings.get(number).status == "open"


@pytest.mark.parametrize("seed", slow_but([0], range(6)))
def test_the_strongest_head_of_a_random_model_is_caught(toy, pairs, seed):
    """A head that was chosen by luck: of all heads the one with the largest effect on eight examples."""
    task, again = pairs
    model = untrained(toy.model, seed=seed)
    few = toy.task(8, seed=50 + seed)
    frame = digsite.activation_patching(model, few, "layers.*.attn.z[*]", direction="noise").to_frame()
    head = frame.sort("effect", descending=True)["site"][0]
    result = battery(model, task, head, again=again)
    assert not result.passed, result.verdict


def test_a_true_finding_becomes_supported_in_a_dig(toy, pairs, tmp_path):
    task, again = pairs
    dig = Dig.init(tmp_path / "dig")
    setting = {"model": toy.model.name, "task": task.name}
    number = dig.findings.add("Head 2 of layer 1 looks back", level="head", subject=HEADS[1], setting=setting).id
    with pytest.raises(BadInput, match="no battery"):
        dig.findings.support(number)
    examine(dig, number, toy.model, task, again=again)
    assert dig.findings.support(number).status == "supported"
    (run,) = dig.runs()
    assert (run.method, run.status) == ("investigations.battery", "done")
    with pytest.raises(BadInput, match="is about the task aligned-induction"):
        other = aligned("aligned-greater")
        examine(dig, number, toy.model, other.task(8), again=again)


LATENTS = [("capital-of", "sae-0#84", True), ("ioi", "sae-1#26", True), ("capital-of", "sae-0#504", False)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "latent", "passes"), LATENTS)
def test_a_latent_of_a_built_in_dictionary_passes(name, latent, passes):
    """Those whose loss costs the task most, among all that fire; the third is the second of its task, and is caught."""
    model = digsite.load("digsite/tinyworld", verify=False)
    result = battery(model, digsite.tasks.family(name)(model, n=64), f"digsite/tinyworld/{latent}")
    assert (result.passed, result.kind) == (passes, "latent"), result.verdict


def test_another_variant_of_the_task_is_another_question(tmp_path):
    """The same family, of which the finding says nothing: its usual corruption is meant."""
    dig, model = Dig.init(tmp_path / "dig"), digsite.load("digsite/tinyworld", verify=False)
    setting = {"model": model.name, "task": "ioi", "n": 8}
    number = dig.findings.add("It does it", level="behaviour", subject="behaviour", setting=setting).id
    task = digsite.tasks.ioi(model, n=8, corruption="abc")
    with pytest.raises(BadInput, match=r"(?s)is about the task ioi with corruption=flip.*Found: corruption=abc"):
        examine(dig, number, model, task, again=task)
    assert not dig.runs()


# -- each check is needed ---------------------------------------------------------------------------------------------
def failing(model, task, subject, **more):
    return [check.name for check in battery(model, task, subject, **more).checks if not check.passed]


@dataclass(frozen=True)
class Everywhere:
    """A subject that does the same whatever is asked of it: 1 in each example, where random ones do nothing."""

    kind: ClassVar[str] = "component"

    def effect(self, model, task, metric, draws, seed):
        noise = torch.randn(len(task), generator=torch.Generator().manual_seed(seed)) / 10
        return Effect(1 + noise, torch.zeros(draws), min(32, len(task)), 1.0)


def test_what_is_found_everywhere_fails_where_it_must_vanish(toy, pairs, monkeypatch):
    module = sys.modules["digsite.investigations.battery"]
    monkeypatch.setattr(module, "subject_of", lambda *_, **__: Everywhere())
    names = failing(toy.model, pairs[0], "anything", again=pairs[1])
    assert names == ["null input", "shuffled labels", "random weights 1", "random weights 2", "random weights 3"]


def test_an_effect_beats_its_null_only_beyond_its_mean_and_nearly_all_of_it():
    values, few = torch.linspace(0.8, 1.2, 40), 32
    null = torch.linspace(-0.5, 0.5, 20)
    assert beats(Effect(values, null, few, 1.0), 1) and not beats(Effect(values, null, few, 1.0), -1)
    assert beats(Effect(-values, null, few, 1.0), -1)
    two_above = torch.cat([null[:18], torch.tensor([2.0, 2.0])])
    assert not beats(Effect(values, two_above, few, 1.0), 1), "two of twenty random ones do more"
    wide = torch.tensor([30.0, -28.0] * 20)
    assert not beats(Effect(wide, null, few, 1.0), 1), "its interval holds the mean of the random ones"
    assert not beats(Effect(values, torch.zeros(0), few, 1.0), 1), "without a null nothing is beaten"


def test_a_head_that_does_almost_nothing_is_not_worth_a_finding(toy, pairs):
    first = battery(toy.model, pairs[0], OTHER, again=pairs[1]).failed[0]
    assert first.startswith("the claim itself") and "less than 1% of the logit_diff there is to explain" in first


def test_examples_that_were_chosen_for_the_effect_do_not_persist(toy, pairs):
    model = untrained(toy.model, seed=7)
    many = toy.task(200, seed=3)
    logits = model.run(many.clean, logits=1).logits
    lucky = many.take(many.metric(logits).topk(40).indices)
    names = failing(model, lucky, "behaviour", again=pairs[1])
    assert "other seed" in names and "the claim itself" not in names


def test_a_check_that_cannot_be_made_has_not_been_passed(toy, pairs):
    task, again = pairs
    result = battery(toy.model, task.take([0] * 8), HEADS[1], again=again)
    (check,) = [check for check in result.checks if check.name == "shuffled labels"]
    assert not check.passed and check.words.startswith("could not be made: The answers are the same")
    assert not len(check.effect) and "shuffled labels" in result.verdict


# -- the result -------------------------------------------------------------------------------------------------------
def test_it_comes_back_from_disk_and_shows_itself(passed, tmp_path):
    passed.save(tmp_path / "battery")
    again = digsite.load_result(tmp_path / "battery")
    assert isinstance(again, BatteryResult) and again.verdict == passed.verdict
    frame = again.to_frame()
    assert frame.height == 8 and (frame["low"] <= frame["effect"]).all() and (frame["effect"] <= frame["high"]).all()
    assert passed.cost.rows > 0 and passed.provenance.tokens


def test_it_says_beforehand_about_what_it_costs(passed, pairs):
    assert passed.cost.rows / 2 < rows_needed(pairs[0]) < 2 * passed.cost.rows


def test_the_second_metric_is_another_one(pairs):
    task = pairs[0]
    assert second_metric(task, "logit_diff") == "prob" and second_metric(task, "prob") == "logit_diff"
    assert second_metric(task, "accuracy") == "logit_diff"


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("layers.0.attn.z[9]", "asks for head"),
        ("layers.0.attn.z[0], layers.0.resid_post", "no component of a set"),
        ("layers.0.mlp.act#x", "no number behind its #"),
        ("layers.0.mlp.act#100000", "There is no neuron 100000"),
        ("nowhere", "nothing that a finding can be about"),
        ("digsite/tinyworld/sae-0#100000", "has no latent 100000"),
    ],
)
def test_a_subject_that_is_none_is_refused(toy, pairs, subject, message):
    with pytest.raises((BadInput, KeyError), match=message):
        battery(toy.model, pairs[0], subject, again=pairs[1])


def test_too_little_is_refused(toy, pairs):
    with pytest.raises(BadInput, match=r"(?s)so little says nothing.*4 examples, 20 draws"):
        battery(toy.model, pairs[0].take(slice(0, 4)), HEADS[0], again=pairs[1])
    with pytest.raises(BadInput, match="48 examples, 5 draws"):
        battery(toy.model, pairs[0], HEADS[0], again=pairs[1], draws=5)
    with pytest.raises(BadInput, match="How new examples of the task aligned-induction are drawn is not known"):
        battery(toy.model, pairs[0], HEADS[0])


def test_a_family_draws_its_own_new_examples():
    from digsite.investigations.battery import redrawn

    model = digsite.load("digsite/tinyworld", verify=False)
    fresh = redrawn(model, digsite.tasks.ioi(model, n=8, seed=2))
    assert fresh.fingerprint == digsite.tasks.ioi(model, n=8, seed=3).fingerprint
    with pytest.raises(BadInput, match="pass them"):
        redrawn(model, digsite.tasks.ioi(model, n=8, corruption="abc"))
