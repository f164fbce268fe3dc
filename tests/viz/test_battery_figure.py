"""The figure of a battery shows each effect beside its null, and says what failed."""

import pytest
import torch
from drawn import collisions, outside, texts

from digsite._core.cost import Cost
from digsite._core.provenance import record
from digsite.investigations import BatteryResult
from digsite.investigations.battery import Check

DRAW = torch.Generator().manual_seed(0)


def check(name, must, mean, *, passed=True, unit="logits", metric="logit_diff", made=True):
    effect = mean + torch.randn(40, generator=DRAW) if made else torch.zeros(0)
    null = torch.randn(20, generator=DRAW) / 5 if made else torch.zeros(0)
    told = {"few": 32, "whole": 10.0, "passed": passed, "words": "seen"}
    return Check(name=name, must=must, metric_name=metric, unit=unit, effect=effect, null=null, **told)


def result(subject="layers.2.attn.z[3]", **changes):
    checks = [
        check("the claim itself", "persist", 8.0),
        check("null input", "vanish", 6.0, passed=False),
        check("shuffled labels", "vanish", 0.0, passed=False, made=False),
        check("other seed", "persist", -3.0),
        *(check(f"random weights {i}", "vanish", 0.0) for i in (1, 2, 3)),
        check("second metric", "persist", 0.5, unit="fraction", metric="prob"),
    ]
    about = {"subject": subject, "kind": "component", "model": "toy", "task": "pairs", "description": ""}
    about |= {"options": {}, "usual": {}}
    made = {"provenance": record("digsite.battery(model, task, subject)"), "cost": Cost()}
    return BatteryResult(**about, checks=tuple(checks), **made)


@pytest.mark.parametrize("subject", ["layers.2.attn.z[3]", ", ".join(f"layers.{i}.attn.z[{i}]" for i in range(9))])
def test_nothing_overlaps_and_each_check_says_how_it_ended(subject):
    figure = result(subject).figure()
    assert not collisions(figure) and not outside(figure)
    said = texts(figure)
    assert said.count("✓ gone") == 3 and said.count("✓ there") == 3
    assert "✗ still there" in said and "✗ not made" in said
    assert "digsite.battery(model, task, subject)" in figure.svg()


def test_every_random_subject_and_every_effect_is_a_mark():
    figure = result().figure()
    marks = list(figure.canvas.marks.values())
    assert len(marks) == 7 * 21
    assert sum("a random one" in mark for mark in marks) == 7 * 20
    assert sum(mark.startswith("the claim itself: ") and mark.endswith("n = 40") for mark in marks) == 1


def test_the_verdict_names_what_failed():
    assert "fails 2 of its checks: null input (seen); shuffled labels (seen)" in result().verdict
