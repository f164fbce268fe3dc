"""The scoreboard knows a perfect method from chance, and says what a method misses."""

import math

import numpy as np
import pytest

from digsite._core.errors import BadInput, NotFinite, Unsupported
from digsite.artifacts import load_result
from digsite.circuits import nap
from digsite.scoreboard import METHODS, Board, Method, judge, methods, scoreboard
from digsite.scoreboard.board import HARD
from digsite.scoreboard.judge import truth
from digsite.toys.compiled import compile_program


@pytest.fixture(scope="module")
def toy():
    return compile_program("induction", HARD)


@pytest.fixture(scope="module")
def task(toy):
    return toy.task(16)


def test_truth_is_the_declared_circuit(toy):
    nodes = truth(toy, "node")
    assert [name for name, right in nodes.items() if right] == ["layers.0.attn.z[0]", "layers.1.attn.z[0]"]
    assert sum(truth(toy, "edge").values()) == len(toy.edges)


@pytest.mark.parametrize("kind", ["node", "edge"])
def test_a_perfect_method_and_its_opposite(toy, task, kind):
    right = truth(toy, kind)
    perfect = judge(toy, task, {name: 2.0 if yes else -1.0 for name, yes in right.items()}, kind)
    assert (perfect.auroc, perfect.auprc, perfect.missed) == (1.0, 1.0, 0.0)
    assert perfect.size == (2 if kind == "node" else None)
    wrong = judge(toy, task, {name: 0.0 if yes else 1.0 for name, yes in right.items()}, kind)
    assert (wrong.auroc, wrong.missed) == (0.0, 1.0)


def test_auroc_is_the_chance_that_a_true_one_scores_higher(toy, task):
    right = truth(toy, "edge")
    scores = dict(zip(right, np.random.default_rng(3).random(len(right)).tolist(), strict=True))
    good, bad = ([scores[name] for name, yes in right.items() if yes is which] for which in (True, False))
    assert judge(toy, task, scores, "edge").auroc == pytest.approx(np.mean([a > b for a in good for b in bad]))


def test_scores_that_do_not_fit(toy, task):
    right = truth(toy, "node")
    with pytest.raises(BadInput, match=r"not those of the 8 nodes of induction.\nFound: 1 missing, 1 unknown"):
        judge(toy, task, {**dict.fromkeys(list(right)[1:], 1.0), "layers.9.mlp.out": 1.0}, "node")
    with pytest.raises(NotFinite, match=r"not a finite number.\nFound: layers.0.attn.z\[0\]"):
        judge(toy, task, {name: math.nan if i == 0 else 1.0 for i, name in enumerate(right)}, "node")


@pytest.mark.slow
def test_chance_is_chance_and_patching_is_not(tmp_path):
    programs = ["induction", "ioi", "cancelling"]
    board = scoreboard(programs, ["random", "random edges", "patching (denoise)", "cutting every edge"], n=8, draws=60)
    means = {row["method"]: row for row in board.summary().to_dicts()}
    assert means["random"]["auroc"] == pytest.approx(0.5, abs=0.05)
    assert means["random edges"]["auroc"] == pytest.approx(0.5, abs=0.05)
    assert means["cutting every edge"]["auroc"] == 1.0
    assert means["patching (denoise)"]["auroc"] > 0.7
    assert len(board.to_frame()) == 12
    best, said = means["patching (denoise)"], board.verdict
    assert said == (
        f"patching (denoise) tells the circuit from the rest best: AUROC {best['auroc']:.2f} over 3 programs; "
        f"it misses {best['missed']:.0%} of what is there"
    )
    assert (board.memory >= 0).all()
    again = load_result(board.save(tmp_path / "board"))
    assert isinstance(again, Board)
    assert again.to_frame().equals(board.to_frame())


def test_a_method_that_refuses_is_a_note(monkeypatch):
    def refuses(toy, task, seed):
        raise Unsupported("Not this one.\nFound: that.")

    monkeypatch.setitem(METHODS, "refuses", Method("refuses", "node", refuses))
    (row,) = scoreboard(["either"], ["refuses"], n=4).to_frame().to_dicts()
    assert row["note"] == "Not this one."
    assert math.isnan(row["auroc"])


def test_names_of_nothing():
    with pytest.raises(BadInput, match=r"no program 'indction'.\nPossible: did you mean induction\?"):
        scoreboard(["indction"])
    with pytest.raises(BadInput, match="no method 'randm'"):
        scoreboard(["either"], ["randm"])


def test_gates_open_as_many_edges_as_wanted_and_each_is_between_closed_and_open(toy, task, monkeypatch):
    monkeypatch.setattr(methods, "STEPS", 5)
    gates = METHODS["mask training (edges)"].score(toy, task, 0)
    assert gates.keys() == truth(toy, "edge").keys() and all(0 < gate < 1 for gate in gates.values())
    assert sum(gates.values()) == pytest.approx(round(0.2 * len(gates)), abs=1e-2)
    nodes = METHODS["mask training (nodes)"].score(toy, task, 0)
    assert sum(nodes.values()) == pytest.approx(round(0.2 * len(nodes)), abs=1e-2)


def test_a_head_scores_what_the_strongest_of_its_parts_does(toy, task):
    found = nap(toy.model, task)
    sizes = dict(zip(found.nodes, found.scores.mean(0).abs().tolist(), strict=True))
    scores = METHODS["NAP"].score(toy, task, 0)
    for name, score in scores.items():
        whole = name.replace("attn.z", "attn.result")
        parts = [whole] + [whole.replace("result", part) for part in "qkv" if "attn" in whole]
        assert score == max(sizes[part] for part in parts)
    assert max(scores.values()) > 0


def test_what_gradients_miss_in_an_or_paths_and_masks_find():
    names = ["NAP", "AtP*", "path patching (direct)", "path patching (MLPs)", "mask training (nodes)"]
    rows = {row["method"]: row for row in scoreboard(["either"], names).to_frame().to_dicts()}
    assert all(rows[name]["missed"] == pytest.approx(2 / 3) for name in names[:3])
    assert rows["path patching (MLPs)"]["missed"] == 0
    assert all(rows[name]["auroc"] == 1 for name in names[3:])


@pytest.mark.slow
def test_a_trained_network_hides_nothing_from_nodes_and_paths():
    names = ["NAP", "AtP + QK fix", "AtP + GradDrop", "AtP*", "path patching (direct)", "path patching (MLPs)"]
    board = scoreboard(["aligned-either"], names)
    assert set(board.auroc.tolist()) == {1.0}
