"""Compiled models compute their program on every input, and their circuit is the one that was declared."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import digsite
from digsite._core.errors import BadInput, ContractBroken
from digsite.toys import compiled as module
from digsite.toys.compiled import (
    PROGRAMS,
    Hardness,
    Program,
    aggregate,
    compile_program,
    edge_effects,
    map_,
    program,
    select,
    sequence_map,
    total,
)
from digsite.toys.compiled.compiled import TOLERANCE, wanted
from slowly import slow_but

FEW = ("reverse", "proportion", "two-hop")
HARD = {
    "axes": Hardness(),
    "rotated, decoys": Hardness(directions="rotated", decoys=2, seed=1),
    "superposed, decoys": Hardness(directions="superposed", decoys=1, seed=2),
    "a real norm": Hardness(directions="rotated", norm=True),
    "everything at once": Hardness(directions="superposed", decoys=2, norm=True),
}
OFTEN = [*((name, "rotated, decoys") for name in FEW), *(("reverse", how) for how in HARD)]


@pytest.mark.parametrize(("name", "how"), slow_but(OFTEN, [(name, how) for name in PROGRAMS for how in HARD]))
def test_logits_are_the_program(name, how):
    made = compile_program(name, HARD[how])
    assert made.error <= TOLERANCE[HARD[how].norm]
    one = made.program
    some = np.random.default_rng(0).choice(len(one.rows), min(64, len(one.rows)), replace=False)
    rows = [one.rows[i] for i in some]
    logits = made.model.run(made.tokens(rows)).logits[:, 1:].numpy()
    target, asked = wanted(one)
    width = logits.shape[1]
    assert np.abs(logits - target[some, :width])[asked[some, :width]].max() <= TOLERANCE[HARD[how].norm]


@pytest.mark.parametrize("name", slow_but(FEW, PROGRAMS))
def test_declared_edges_matter_and_no_others(name):
    made = compile_program(name, HARD["superposed, decoys"])
    rows = made.program.rows
    rows = [rows[i] for i in np.random.default_rng(0).choice(len(rows), min(128, len(rows)), replace=False)]
    effects = dict(zip(made.all_edges, edge_effects(made, made.all_edges, rows).tolist(), strict=True))
    assert made.edges <= effects.keys()
    assert {edge for edge, effect in effects.items() if effect > 0.1} == made.edges
    assert all(effect < 1e-4 for edge, effect in effects.items() if edge not in made.edges)


def test_what_is_declared():
    edges = compile_program("previous-token").edges
    head = "layers.0.attn.{}_in[0]"
    assert edges == {
        ("pos_embed", head.format("q")),
        ("pos_embed", head.format("k")),
        ("embed", head.format("v")),
        ("layers.0.attn.result[0]", "logits"),
    }
    assert compile_program("same-token").edges == {("embed", "logits")}
    paths = compile_program("cancelling")
    assert {writer for writer, reader in paths.edges if reader == "layers.1.mlp.in"} == {
        f"layers.1.attn.result[{head}]" for head in range(3)
    }


def test_directions_are_what_they_are_called():
    def overlaps(how):
        hf = compile_program("histogram", HARD[how]).model.hf
        embeddings = torch.nn.functional.normalize(hf.transformer.wte.weight[1:6], dim=-1)
        return embeddings, (embeddings @ embeddings.T - torch.eye(5)).abs().max()

    plain, apart = overlaps("axes")
    assert apart < 1e-6
    assert ((plain != 0).sum(-1) == 2).all()
    turned, apart = overlaps("rotated, decoys")
    assert apart < 1e-6
    assert ((turned.abs() > 1e-4).sum(-1) > 20).all()
    assert overlaps("superposed, decoys")[1] > 0.1


def test_decoys_write_and_nobody_reads():
    made = compile_program("previous-token", Hardness(decoys=2))
    assert made.model.n_heads == 3
    run = made.model.run(made.tokens(made.program.rows[:50]), read="layers.0.attn.result")
    assert (run["layers.0.attn.result"].norm(dim=-1)[:, 1:].mean((0, 1)) > 0.1).all()
    ablated = made.model.run(
        made.tokens(made.program.rows[:50]), edits=[digsite.scale(f"layers.0.attn.z[{head}]", 0.0) for head in (1, 2)]
    )
    torch.testing.assert_close(ablated.logits, run.logits)


def test_a_folder_that_transformers_can_load(tmp_path):
    made = compile_program("induction", Hardness(directions="rotated"))
    made.save(tmp_path / "model")
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer("a b c a", return_tensors="pt").input_ids
    assert tokenizer.decode(hf(ids).logits[0, -1].argmax()) == "b"
    circuit = json.loads((tmp_path / "model" / "circuit.json").read_text())
    assert {tuple(edge) for edge in circuit["edges"]} == made.edges
    model = digsite.load(tmp_path / "model", verify=False)
    assert model.tokenizer.decode(model.run(model.tokens(["b c a b"])).logits[0, -1].argmax()) == "c"


@pytest.mark.parametrize("name", slow_but(FEW, PROGRAMS))
def test_every_program_is_a_task(name):
    made = compile_program(name)
    task = made.task(8)
    assert len(task) == 8
    clean, corrupt = (
        task.metric(made.model.run(tokens).logits[:, -1:]) for tokens in (task.clean, task.require_corrupt())
    )
    assert (clean > corrupt + 0.05).all() if name != "proportion" else (clean != corrupt).all()


# -- the language --------------------------------------------------------------------------------------------------
def custom(output, *, vocabulary=("a", "b"), length=3, **how):
    return Program(name="mine", description="", vocabulary=vocabulary, length=length, output=output, **how)


def test_the_ten_lines_of_the_manual():
    def output(tokens, indices):
        before = aggregate(select(indices, indices, lambda key, query: key == query - 1), tokens)
        return sequence_map(lambda a, b: "b" if a == b else "a", before, tokens)

    mine = custom(output, judged=lambda row: range(1, len(row)))
    assert compile_program(mine).error < 1e-5
    assert mine.run([("a", "a", "b")]) == [[None, "b", "a"]]


def test_numbers_add_up_and_defaults_are_found():
    worth = {"a": 1.0, "b": -2.0}

    def output(tokens, indices):
        own = map_(worth.__getitem__, tokens, number=True)
        mean = aggregate(select(tokens, None, lambda key: True), own)
        sign = map_(lambda sum: "a" if sum > 0 else "b", total((2, mean), (1, own)), domain=("a", "b"))
        first = select(indices, sign, lambda key, query: key == 0 and query == "b")
        return aggregate(first, sign, default="b")

    def reference(row):
        sums = [2 * sum(worth[t] for t in row[: i + 1]) / (i + 1) + worth[row[i]] for i in range(len(row))]
        signs = ["a" if sum > 0 else "b" for sum in sums]
        return [signs[0] if sign == "b" else "b" for sign in signs]

    mine = custom(output, length=4)
    made = compile_program(mine, Hardness(directions="superposed"))
    assert made.error < 1e-4
    assert mine.run(mine.rows) == [reference(row) for row in mine.rows]
    assert len({tuple(row) for row in mine.run(mine.rows)}) > 2


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda t, i: aggregate(select(t, t, lambda a, b: True), t), "aggregate finds more than one value of 'tokens'"),
        (lambda t, i: map_(str, map_(float, i, number=True, name="n")), "from the number 'n' needs to know"),
        (lambda t, i: sequence_map(max, t, map_(float, i, number=True, name="n")), "cannot read the number 'n'"),
        (lambda t, i: total((1, t)), "total adds numbers, and 'tokens' is a category"),
        (lambda t, i: select(map_(float, i, number=True, name="n"), None, bool), "select compares categories"),
        (lambda t, i: aggregate(select(t, t, min), t, default="z"), "default='z' is no value of 'tokens'"),
        (
            lambda t, i: map_(lambda x: "z", map_(float, i, number=True), domain="a", name="m"),
            "'m' gave a value outside",
        ),
    ],
)
def test_programs_that_cannot_be_compiled_say_which_step_and_why(output, message):
    with pytest.raises(BadInput, match=message):
        compile_program(custom(output))


def test_a_program_of_one_output_has_no_pairs():
    made = compile_program(custom(lambda tokens, indices: map_(lambda token: "a", tokens)))
    with pytest.raises(BadInput, match="mine gives every input of a length the same output"):
        made.task(4)


@pytest.mark.slow
def test_widths_that_are_too_large():
    wide = custom(
        lambda t, i: sequence_map(lambda a, b: (a, b), sequence_map(lambda a, b: (a, b), t, i), i),
        length=60,
        inputs=lambda: iter([("a",) * 60]),
    )
    with pytest.raises(BadInput, match=r"mine needs a stream of [0-9]+ dimensions.\nFound: [0-9]+ features"):
        compile_program(wide)


def test_an_output_without_a_token():
    odd = custom(lambda t, i: map_(lambda token: token * 2, t), writes=lambda value: ("c",) if value == "aa" else ())
    made = compile_program(odd)
    assert "c" in made.model.tokenizer.get_vocab()


def test_options_that_do_not_exist():
    with pytest.raises(BadInput, match=r"directions='rotate' is not served.\nPossible: did you mean rotated"):
        Hardness(directions="rotate")
    with pytest.raises(BadInput, match="decoys=-1 is no count"):
        Hardness(decoys=-1)


def test_a_model_that_is_not_its_program_is_an_error(monkeypatch):
    monkeypatch.setattr("digsite.toys.compiled.lowering.SHARP", 0.1)
    with pytest.raises(ContractBroken, match=r"compiled from histogram does not compute it.\nFound: a logit is"):
        compile_program("histogram")


def test_the_room_names_what_people_need():
    assert module.compile_program is compile_program
    assert program("ioi").name == "ioi"
