"""Many prompts: planted circuits give known cores, remainders and overlaps; the core of a real model is measured."""

import pytest
import torch

import digsite
from digsite._core.cost import Cost
from digsite._core.errors import BadInput
from digsite._core.provenance import record
from digsite.circuits import (
    CircuitOverlap,
    CoreFaithfulness,
    EdgeScores,
    Population,
    compare_circuits,
    core_faithfulness,
    eap,
    evaluate_circuit,
    shared_core,
)
from digsite.circuits.judging import jaccard
from digsite.circuits.overlap import by_chance, overlaps
from digsite.graphs.edges import EdgeSpace
from paired import paired_task

WRITERS = ("embed", *(f"layers.0.attn.result[{i}]" for i in range(8)), "layers.0.mlp.out")
READERS = (*(f"layers.0.attn.{part}_in[{i}]" for part in "qkv" for i in range(8)), "layers.0.mlp.in", "logits")
SPACE = EdgeSpace(WRITERS, READERS, (*[1] * 24, 9, 10))
N = 8


def path(head):
    """The two edges of the way over one head."""
    return [("embed", f"layers.0.attn.v_in[{head}]"), (f"layers.0.attn.result[{head}]", "logits")]


def planted(heads, strength=(1.0,) * 8):
    """Scores of prompts that each use some heads, and nothing else but noise."""
    noise = 1e-3 * torch.rand(len(heads), 1, len(WRITERS), len(READERS), generator=torch.Generator().manual_seed(0))
    scores = noise * SPACE.real
    for i, used in enumerate(heads):
        for head in used:
            scores[i, 0] += strength[head] * SPACE.flags(path(head)).float()
    return EdgeScores(
        method="planted", task="pairs", metric_name="logit_diff", unit="logits", clean=torch.ones(len(heads)),
        corrupt=torch.zeros(len(heads)), places=("all",), writers=WRITERS, readers=READERS, before=SPACE.before,
        scores=scores, provenance=record("planted"), cost=Cost(),
    )  # fmt: skip


def test_the_core_is_what_was_planted_in_all_and_the_remainder_what_was_planted_in_one():
    found = shared_core(planted([(0, 1, 2 + i % 4) for i in range(N)]), paired_task(N), 6, draws=10)
    assert set(found.core.edges) == {*path(0), *path(1)}
    for i, left in enumerate(found.remainders):
        assert set(SPACE.named(left)) == set(path(2 + i % 4))
    assert found.core_by_chance < 0.01
    inside = found.to_frame().filter("core")
    assert inside["share"].to_list() == [1.0] * 4
    assert inside["low"][0] < 1.0  # eight prompts do not prove that all prompts have it
    assert found.prompts()["remainder"].to_list() == [2] * N


def test_the_share_decides_what_is_core():
    scores = planted([(0, 1 if i < 6 else 2) for i in range(N)])
    assert set(shared_core(scores, paired_task(N), 4, share=0.75, draws=2).core.edges) == {*path(0), *path(1)}
    assert set(shared_core(scores, paired_task(N), 4, share=0.76, draws=2).core.edges) == set(path(0))


def test_groups_with_circuits_of_their_own_are_told_from_groups_without():
    n = 12
    # Head 2 is so weak that wherever prompts of both groups meet, head 1 is chosen: dealt groups agree.
    own = planted([(0, 1) if i % 2 else (0, 2) for i in range(n)], (1.0, 1.0, 0.15))
    groups = ["ABBA" if i % 2 else "BABA" for i in range(n)]
    apart = shared_core(own, paired_task(n), 4, groups=groups, draws=60)
    assert apart.group_frame()["overlap"][0] == pytest.approx(2 / 6)  # one path of two is shared: 2 edges of 6
    assert apart.group_frame()["dealt"][0] > 0.9 and apart.group_frame()["p"][0] < 0.05
    assert "differ" not in apart.verdict
    same = shared_core(planted([(0, 1)] * n), paired_task(n), 4, groups=groups, draws=60)
    assert same.group_frame()["overlap"][0] == 1.0 and same.halves.eq(1).all()
    assert "no sign that groups differ" in same.verdict


def test_prompts_with_nothing_in_common_have_no_core_and_unstable_halves():
    found = shared_core(planted([(i,) for i in range(N)]), paired_task(N), 8, draws=20)
    assert len(found.core) == 0 and found.halves.max() < 0.2


def test_overlaps_are_jaccard_and_chance_is_what_random_sets_share():
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(5, 4, 6, generator=generator) < 0.4
    kept[3:] = False
    assert torch.allclose(overlaps(kept), torch.tensor([[jaccard(a, b) for b in kept] for a in kept]))
    drawn = torch.rand(400, 2, 500, generator=generator)
    a, b = drawn[:, 0].argsort(1) < 100, drawn[:, 1].argsort(1) < 50
    assert float(torch.tensor([jaccard(x, y) for x, y in zip(a, b, strict=True)]).mean()) == pytest.approx(
        by_chance(100, 50, 500), abs=0.005
    )


def test_circuits_of_several_tasks_are_compared_by_name(tmp_path):
    both = planted([(0, 1), (0, 2), (0, 1), (0, 2)]).circuit(2)
    one, other = (planted([heads] * 4).circuit(4) for heads in ((0, 1), (0, 2)))
    told = compare_circuits([one, other, both], ["a", "b", "c"])
    assert told.to_frame()["edges"][0] == pytest.approx(1 / 3)
    assert told.to_frame()["nodes"][0] == pytest.approx(1 / 3)
    assert set(told.core.edges) == set(path(0))
    assert CircuitOverlap.load(told.save(tmp_path / "overlap")).verdict == told.verdict
    with pytest.raises(BadInput, match="needs two circuits"):
        compare_circuits([one])


@pytest.fixture(scope="module")
def real():
    model = digsite.load("digsite/tinyworld")
    task = digsite.tasks.ioi(model, n=4)
    found = shared_core(eap(model, task), task, 0.05, draws=10)
    return model, task, found, core_faithfulness(model, task, found, random_circuits=1)


def test_each_prompt_is_cut_by_its_own_circuit(real):
    model, task, found, judged = real
    alone = [evaluate_circuit(model, task.take(i), found.circuits[i : i + 1])[0] for i in range(len(task))]
    assert torch.allclose(judged.kept[1], torch.cat(alone), atol=1e-4)
    together = evaluate_circuit(model, task, found.core.kept[None])[0]
    assert torch.allclose(judged.kept[0], together, atol=1e-4)
    rows = {row["circuit"]: row for row in judged.to_frame().rows(named=True)}
    assert rows["core"]["kept"] < rows["core + another's remainder"]["kept"] < rows["core + own remainder"]["kept"]
    assert rows["random"]["edges"] == rows["core + own remainder"]["edges"] and rows["random"]["kept"] < 0.1


def test_they_are_saved_and_read_back(real, tmp_path):
    for result in real[2:]:
        again = type(result).load(result.save(tmp_path / type(result).__name__))
        assert isinstance(again, (Population, CoreFaithfulness)) and again.verdict == result.verdict


def test_bad_input(real):
    model, task, found, _ = real
    scores = planted([(0,)] * N)
    with pytest.raises(BadInput, match="scores of 8 prompts, 7 groups"):
        shared_core(scores, paired_task(7), 2)
    with pytest.raises(BadInput, match="0 < share <= 1"):
        shared_core(scores, paired_task(N), 2, share=0.0)
    with pytest.raises(BadInput, match="prompts of their population"):
        core_faithfulness(model, task.take(slice(0, 3)), found)
    with pytest.raises(BadInput, match="each prompt is cut alone"):
        core_faithfulness(model, task, found, how="mean")
    with pytest.raises(BadInput, match="belongs to another model"):
        core_faithfulness(model, digsite.tasks.ioi(model, n=N), shared_core(scores, paired_task(N), 2, draws=2))
