"""Aligned networks: the program's counterfactuals, the patch of the training, and what the examination refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import digsite
from digsite._core.errors import BadInput, ContractBroken, LoadError
from digsite.scoreboard import judge, scoreboard
from digsite.scoreboard.judge import truth
from digsite.toys.aligned import PROGRAMS, Aligned, aligned, toy
from digsite.toys.aligned.aligned import SHIPPED
from digsite.toys.aligned.examination import examine
from digsite.toys.aligned.program import TOKENS, UNDEFINED, written
from digsite.toys.aligned.routes import alone, write
from digsite.toys.aligned.siit import changed, loss, network, nodes, recipe, watched
from digsite.toys.training import Trained, train
from slowly import slow_but

PAGE = Path(__file__).parents[2] / "docs" / "toys" / "aligned.md"
RNG = np.random.default_rng


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_its_answers(name):
    program = PROGRAMS[name]
    for row, answer in zip(rows := program.rows(RNG(0), 200), program.answers(rows), strict=True):
        words = [program.words[token] for token in row]
        assert program.words[answer] == REFERENCE[name](words), words


def _balanced(words):
    depth = 0
    for word in words[1:-1]:
        depth += 1 if word == "(" else -1
        if depth < 0:
            return "no"
    return "yes" if depth == 0 else "no"


REFERENCE = {
    "aligned-induction": lambda words: words[words.index(words[-1]) + 1],
    "aligned-greater": lambda words: "yes" if int(words[1]) > int(words[3]) else "no",
    "aligned-either": lambda words: "yes" if {"x", "y"} & set(words) else "no",
    "aligned-brackets": _balanced,
}


def test_a_variable_from_another_row_changes_what_reads_it():
    program = PROGRAMS["aligned-greater"]
    word = {word: i for i, word in enumerate(program.words)}
    rows, donors = (np.array([[word[one] for one in text.split()]]) for text in ("<bos> 7 0 9 ?", "<bos> 12 0 3 ?"))
    given = [(), ("first",), ("last",), ("first", "last"), ("greater",)]
    assert [program.words[program.answers(rows, donors, some)[0]] for some in given] == [
        "no",
        "yes",
        "yes",
        "yes",
        "yes",
    ]


def test_an_answer_that_is_not_defined_is_none():
    program = PROGRAMS["aligned-induction"]
    word = {word: i for i, word in enumerate(program.words)}
    rows, donors, ends = (
        np.array([[word[one] for one in ("<bos>", *text.split())]])
        for text in ("a b c d e f a", "f e a d c b f", "f e b d c a f")
    )
    assert program.words[program.answers(rows)[0]] == "b"
    assert program.words[program.answers(rows, donors, ["previous"])[0]] == "d"  # a came before the fourth letter
    assert program.answers(rows, ends, ["previous"])[0] == UNDEFINED  # and here nothing follows it


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_row_is_both_trained_on_and_held_out(name):
    seen, held = ({tuple(row) for row in PROGRAMS[name].rows(RNG(1), 300, held_out=which)} for which in (False, True))
    assert held and not seen & held


@pytest.mark.parametrize("name", PROGRAMS)
def test_declared_edges_are_edges_of_the_model(name):
    program = PROGRAMS[name]
    made = Aligned(program=program, model=digsite.load(network(program).eval(), verify=False))
    assert made.edges <= set(made.all_edges)
    assert made.nodes == {"embed", *(written(step.node) for step in program.steps)}


# -- training ------------------------------------------------------------------------------------------------------
def test_the_patch_of_the_training_is_the_patch_of_digsite():
    program = PROGRAMS["aligned-greater"]
    hf = network(program).eval()
    made = Aligned(program=program, model=digsite.load(hf, verify=False))
    rows, donors = program.rows(RNG(2), 6), program.rows(RNG(3), 6)
    for node in nodes(program.layers):
        with torch.no_grad():
            with watched(hf) as seen:
                hf(torch.from_numpy(donors))
            with changed(hf, lambda name, output, node=node, seen=seen: seen.outputs[name] if name == node else output):
                patched = hf(torch.from_numpy(rows)).logits[:, -1]
        torch.testing.assert_close(patched, made.exchanged(rows, donors, [node]))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_circuit_by_itself_is_the_whole_network_where_all_else_is_the_rows_own(name):
    program = PROGRAMS[name]
    torch.manual_seed(0)
    hf = network(program).eval().double()
    rows = torch.from_numpy(program.rows(RNG(4), 5))
    with torch.no_grad():
        for weight in hf.parameters():
            weight.mul_(5.0)
        with watched(hf) as seen:
            logits = hf(rows).logits[:, -1]
        own = {TOKENS: hf.transformer.wte(rows)}
        own |= {node: write(hf, node, output) for node, output in seen.outputs.items()}
        made = alone(hf, program, own, own, seen.streams, lambda n: torch.zeros(5, n, dtype=torch.bool))
    torch.testing.assert_close(made, logits)


def test_the_circuit_by_itself_ignores_a_node_that_is_not_the_programs():
    program = PROGRAMS["aligned-either"]
    hf = network(program).eval()
    rows, donors = (torch.from_numpy(program.rows(RNG(seed), 5)) for seed in (5, 6))
    passes = []
    with torch.no_grad():
        for ids in (rows, donors):
            with watched(hf) as seen:
                hf(ids)
            writes = {node: write(hf, node, output) for node, output in seen.outputs.items()}
            passes.append(({TOKENS: hf.transformer.wte(ids)} | writes, seen.streams))
        (own, _), (donated, streams) = passes
        none = lambda n: torch.zeros(5, n, dtype=torch.bool)  # noqa: E731
        first = alone(hf, program, own, donated, streams, none)
        again = alone(
            hf,
            program,
            {name: own[name] if name == TOKENS else own[name] + 9.0 for name in own},
            donated,
            streams,
            none,
        )
    torch.testing.assert_close(first, again)


def test_the_same_seed_gives_the_same_weights_and_a_loss_that_depends_on_its_step(tmp_path):
    program = PROGRAMS["aligned-brackets"]
    first, again = (train(recipe(program, 0, 3), tmp_path / name).network for name in ("first", "again"))
    weights = again.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in first.state_dict().items())
    assert loss(first, 5, program=program, seed=0) != loss(first, 6, program=program, seed=0)


@pytest.mark.slow
def test_a_network_that_was_not_trained_is_refused(tmp_path):
    with pytest.raises(ContractBroken, match="held-out rows answered: 0"):
        toy("aligned-greater").make(tmp_path / "toy", steps=2)


# -- what comes with digsite ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", slow_but(["aligned-either"], PROGRAMS))
def test_what_comes_with_digsite_is_what_its_card_says(name):
    made = aligned(name)
    found = examine(Trained(made.model.hf, [1.0, 0.5]), seed=7, program=made.program)
    assert all(found.holds), found.to_frame()
    told = re.findall(r"^\| (.+?) \| (\S+) ", (SHIPPED / name / "README.md").read_text(), re.MULTILINE)[1:]
    assert [claim for claim, _ in told] == list(found.claims)
    assert all(abs(float(value) - mine) < 0.1 for (_, value), mine in zip(told, found.values.tolist(), strict=True))
    assert (SHIPPED / name / "model.safetensors").stat().st_size < 400_000


@pytest.mark.slow
def test_a_head_that_is_silenced_is_found_out():
    made = aligned("aligned-brackets")
    with torch.no_grad():
        made.model.hf.transformer.h[1].attn.c_proj.weight[24:36] = 0.0  # head 2, which says whether depth was negative
    found = examine(Trained(made.model.hf, [1.0, 0.5]), seed=7, program=made.program)
    failed = [claim for claim, holds in zip(found.claims, found.holds, strict=True) if not holds]
    assert "answers that follow when layers.1.attn.z[2] carries another row's below" in failed


def test_its_task_has_held_out_rows_and_other_answers():
    made = aligned("aligned-induction")
    task = made.task(24)
    assert len(task) == 24
    logits = made.model.run(task.clean).logits[:, -1]
    assert float(task.metric(logits[:, None]).min()) > 0


def test_patching_finds_the_nodes_and_cutting_finds_the_edges():
    board = scoreboard(["aligned-induction"], ["patching (noise)", "cutting every edge"], n=8)
    assert board.auroc.tolist() == [1.0, 1.0]


def test_a_model_of_ones_own_stands_on_the_board():
    made = aligned("aligned-either")
    assert scoreboard([made], ["random"], n=4, draws=2).programs == ("aligned-either",)
    right = truth(made, "node")
    assert [name for name in right if right[name]] == [step.node for step in made.program.steps]
    perfect = judge(made, made.task(8), {name: float(yes) for name, yes in right.items()}, "node")
    assert perfect.auroc == 1.0


def test_folders_and_names_of_nothing(tmp_path):
    with pytest.raises(BadInput, match="did you mean aligned-either"):
        aligned("aligned-eithr")
    from_folder = aligned(SHIPPED / "aligned-induction")
    assert from_folder.name == "aligned-induction"
    with pytest.raises((LoadError, FileNotFoundError)):
        aligned(tmp_path)


def test_the_blocks_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
