"""Switching a part off: known parts break what they do and nothing else; cuts are the edits that they say they are."""

from functools import lru_cache
from itertools import product

import pytest
import torch

from architectures import tiny
from digsite._core.errors import BadInput, ShapeMismatch
from digsite.circuits import evaluate_circuit
from digsite.editing import Surgery, disable, node_edits
from digsite.editing.cuts import other_rows
from digsite.graphs import edge_space
from digsite.graphs.circuit import circuit
from digsite.models.load import wrap
from digsite.models.made_by import made_by
from digsite.models.tokens import grid
from digsite.tasks import Task
from digsite.toys.compiled import Hardness, Program, aggregate, compile_program, map_, select, total
from paired import paired_task

VALUES = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}


@lru_cache
def two_abilities():
    """A model that weighs the first letter after "1" and the second one after "2": one head for each."""

    def output(tokens, indices):
        weight = map_(lambda token: VALUES.get(token, 0.0), tokens, number=True)
        marks = [
            map_(lambda token, cue=cue: cue if token == cue else "no", tokens, domain=(cue, "no")) for cue in ("1", "2")
        ]
        heads = [
            aggregate(select(indices, mark, lambda index, cue, place=place: index == place and cue != "no"), weight)
            for place, mark in enumerate(marks)
        ]
        return total(*((1, head) for head in heads))

    return compile_program(
        Program(
            name="two abilities",
            description="the weight of the first letter after 1, of the second after 2",
            vocabulary=(*VALUES, "1", "2"),
            length=3,
            output=output,
            inputs=lambda: product(VALUES, VALUES, "12"),
            judged=lambda row: [2],
        ),
        Hardness(decoys=3),
    )


def asking(cue):
    """Pairs that differ in the letter that the cue asks for; the heavier one is clean."""
    rows = [(a, b, c) for a, b, c in product(VALUES, repeat=3) if VALUES[a] > VALUES[b]]
    texts = [[f"{letter} {c} 1" if cue == "1" else f"{c} {letter} 2" for letter in (a, b)] for a, b, c in rows]
    frame = [{"clean": a, "corrupt": b, "right": " value", "wrong": " 1"} for a, b in texts]
    return Task.from_frame(two_abilities().model, frame, name=f"after {cue}")


def heads_that_fetch():
    """The head that fetches the first letter, and the one that fetches the second, by where they attend."""
    model, found = two_abilities().model, []
    for place, cue in enumerate(("1", "2")):
        run = model.run(asking(cue).clean, read=["layers.*.attn.pattern"])
        found += [
            f"layers.{site.layer}.attn.z[{head}]"
            for site, pattern in run.each("layers.*.attn.pattern").items()
            for head in range(model.n_heads)
            if float(pattern[:, head, -1, 1 + place].min()) > 0.9
            and (f"layers.{site.layer}.attn.result[{head}]", "logits") in two_abilities().edges
        ]
    assert len(found) == 2
    return found


def test_switching_one_ability_off_leaves_the_other():
    model, heads = two_abilities().model, heads_that_fetch()
    tasks = [asking("1"), asking("2")]
    for which in (0, 1):
        found = disable(model, [heads[which]], tasks[which], how="zero", others=[tasks[1 - which]], random_parts=4)
        mine, other = found.changes
        assert float(mine.loss.mean()) > 0.5
        assert float(other.loss.abs().max()) < 1e-3
        assert mine.name == tasks[which].name and found.harmed == ()


@pytest.mark.slow
def test_the_edges_of_an_ability_are_surgical_and_all_edges_are_not():
    made, heads = two_abilities(), heads_that_fetch()
    writer = heads[0].replace("attn.z", "attn.result")
    space, model = edge_space(made.model), made.model
    edges = [(writer, "logits")]

    def claim(kept):
        return circuit(space, kept, name="after 1", method="by hand", provenance=made_by("test", model))

    neutral = asking("2").clean
    found = disable(model, claim(edges), asking("1"), how="mean", others=[asking("2")], neutral=neutral)
    assert found.surgical and "surgical: nothing else loses more" in found.verdict
    assert [one.name for one in found.changes] == ["after 1", "after 2", "neutral text", "neutral text"]
    everything = disable(model, claim(space.real), asking("1"), how="zero", others=[asking("2")], random_parts=3)
    assert not everything.surgical and min(everything.to_frame()["loss"].to_list()) > 0.5


def model_of(name):
    return wrap(tiny(name), None, name=name, revision=None, attention="eager")


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_edges_out_of_a_node_to_all_its_readers_are_the_node(how):
    model, task = model_of("llama"), paired_task(5)
    over = paired_task(6, seed=3).clean
    space = edge_space(model)
    writer = space.writers.index("layers.1.attn.result[2]")
    flags = torch.zeros_like(space.real)
    flags[writer] = space.real[writer]
    one = circuit(space, flags, name="a head", method="by hand", provenance=made_by("test", model))
    neutral = model.tokens(torch.randint(3, 97, (4, 9), generator=torch.Generator().manual_seed(0)))
    knobs = {"how": how, "over": over, "neutral": neutral, "random_parts": 2}
    nodes, edges = disable(model, ["layers.1.attn.z[2]"], task, **knobs), disable(model, one, task, **knobs)
    for a, b in zip(nodes.changes, edges.changes, strict=True):
        torch.testing.assert_close(a.after, b.after, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a.before, b.before, rtol=1e-4, atol=1e-4)
    assert float(nodes.changes[1].after.min()) > 0


def test_what_is_measured_is_what_the_edits_do():
    model, task = model_of("gpt2"), paired_task(5, lengths=(7, 5))
    over = paired_task(6, seed=3).clean
    nodes = ["layers.0.mlp.out", "layers.2.attn.z[1]"]
    neutral = model.tokens([[5, 6, 7, 8, 9, 10], [11, 12, 13]])
    found = disable(model, nodes, task, how="mean", over=over, neutral=neutral, random_parts=2)
    edits = node_edits(model, nodes, how="mean", over=over)
    torch.testing.assert_close(found.changes[0].after, task.metric(model.run(task.clean, edits=edits).logits))
    loss, kl = [], []
    for ids in ([5, 6, 7, 8, 9, 10], [11, 12, 13]):
        row = torch.tensor([ids])
        own, cut = (model.run(row, edits=some).logits[0, :-1].log_softmax(-1) for some in ([], edits))
        loss.append(-cut.gather(1, row[0, 1:, None]).mean())
        kl.append((own.exp() * (own - cut)).sum(-1).mean())
    torch.testing.assert_close(found.changes[1].after, torch.stack(kl), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.changes[2].after, torch.stack(loss), rtol=1e-4, atol=1e-5)


def test_disabling_a_circuit_is_evaluating_what_is_left():
    model, task = model_of("llama"), paired_task(5)
    space = edge_space(model)
    some = space.real & (torch.rand(space.real.shape, generator=torch.Generator().manual_seed(0)) < 0.2)
    one = circuit(space, some, name="some", method="by hand", provenance=made_by("test", model))
    found = disable(model, one, task, how="zero", random_parts=1)
    rest = evaluate_circuit(model, task, (space.real & ~some)[None], how="zero")[0]
    torch.testing.assert_close(found.changes[0].after, rest, rtol=1e-4, atol=1e-4)


def test_resampling_takes_another_row_of_the_same_length():
    tokens = grid([[1, 2], [3, 4, 5], [6, 7], [8, 9, 10], [11, 12]], padding="left")
    order = other_rows(tokens, 0)
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]
    assert all(
        row != other and tokens.lengths[row] == tokens.lengths[other] for row, other in enumerate(order.tolist())
    )
    found = disable(model_of("gpt2"), ["layers.1.mlp.out"], paired_task(6), how="resample", random_parts=2)
    assert found.changes[0].random.shape == (2,)
    with pytest.raises(ShapeMismatch, match="row 1 is the only one of 3 tokens"):
        other_rows(tokens[[0, 1, 2]], 0)


def test_it_is_saved_and_read_back(tmp_path):
    found = disable(model_of("gpt2"), ["layers.1.mlp.out"], paired_task(3), how="zero", random_parts=2)
    again = Surgery.load(found.save(tmp_path / "surgery"))
    assert again.verdict == found.verdict and "nothing else was measured" in found.verdict


def test_what_cannot_be_cut_is_refused():
    model, task = model_of("gpt2"), paired_task(3)
    with pytest.raises(BadInput, match="There is nothing to switch off"):
        disable(model, [], task)
    with pytest.raises(BadInput, match="how='hard' is not a way to switch a part off"):
        disable(model, ["layers.1.mlp.out"], task, how="hard")
    with pytest.raises(BadInput, match="needs a text to take the mean over"):
        node_edits(model, ["layers.1.mlp.out"])
