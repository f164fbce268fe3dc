"""Training: exact in what it serves, counts and resumes; each recipe does what it says."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import torch

from digsite._core.errors import BadInput, LoadError, MissingExtra, NotFinite, ShapeMismatch
from digsite.artifacts import load_result
from digsite.dictionaries import (
    BatchTopK,
    Dictionary,
    JumpReLU,
    Relu,
    TopK,
    crosscoder,
    initialise,
    molt,
    sae,
    transcoder,
)
from digsite.dictionaries.callbacks import TensorBoard, WandB
from digsite.dictionaries.losses import Clock, Reconstruction
from digsite.dictionaries.preparing import prepare
from digsite.dictionaries.recipes import (
    APRIL_2024,
    BATCHTOPK,
    JAN_2025,
    JUMPRELU,
    JUMPRELU_SHORT,
    RECIPES,
    TOPK,
    TRANSCODER,
    Term,
)
from digsite.dictionaries.schedules import Schedule
from digsite.dictionaries.sparsity import L0Step, Tanh
from digsite.dictionaries.trainer import Trainer
from digsite.dictionaries.training import TrainedDictionaries, train
from digsite.store import Held, Rows, Shuffled
from slowly import slow_but

QUICK = replace(TOPK, rate=1e-2)


def activations(rows=600, width=8, seed=0, offset=3.0):
    """Rows that are sums of a few of 16 directions, and a constant."""
    drawn = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(16, width, generator=drawn), dim=1)
    codes = torch.rand(rows, 16, generator=drawn) * (torch.rand(rows, 16, generator=drawn) < 0.12)
    return 5 * codes @ directions + offset


SOURCE = Held({"x": activations()})


def new(activation: Any = None, latents=16) -> Dictionary:
    return sae({"x": 8}, latents, activation or TopK(k=2))


def numbers(dictionary: Dictionary) -> dict[str, torch.Tensor]:
    return {**dict(dictionary.named_parameters()), **dict(dictionary.named_buffers())}


def same(one: Dictionary, other: Dictionary) -> bool:
    a, b = numbers(one), numbers(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- rows ----------------------------------------------------------------------------------------------------------
def test_each_row_is_learned_from_once_an_epoch_and_counted(monkeypatch):
    seen = []
    whole = Dictionary.run

    def watching(self, rows, **asked):
        seen.append(rows.numbers)
        return whole(self, rows, **asked)

    monkeypatch.setattr(Dictionary, "run", watching)
    result = train(SOURCE, new(), QUICK, batch=64, rows=1500)
    served = torch.cat(seen)
    assert result.rows == len(served) == 600 + 600 + 320, "whole batches: 10 of 64, 64, … 24, twice, then 5"
    assert torch.equal(served[:600].sort().values, torch.arange(600)) and len(seen) == result.steps == 25
    assert torch.equal(served[600:1200].sort().values, torch.arange(600)) and len(served[1200:].unique()) == 320
    assert result.curves["rows"][-1] == result.rows and result.curves["step"][-1] == 25


def test_defaults_fit_any_source_and_a_small_buffer_is_refused():
    result = train(SOURCE, new())
    assert (result.rows, result.steps) == (600, 1)
    with pytest.raises(BadInput, match="buffer"):
        train(SOURCE, new(), batch=64, buffer=32)


def test_several_at_once_are_each_as_if_alone():
    together = train(SOURCE, {"a": new(), "b": (new(BatchTopK(k=2)), BATCHTOPK)}, QUICK, batch=64)
    assert same(together.dictionaries["a"], train(SOURCE, new(), QUICK, batch=64).dictionary)
    assert same(together.dictionaries["b"], train(SOURCE, new(BatchTopK(k=2)), BATCHTOPK, batch=64).dictionary)
    assert together.recipes == ("TopK", "BatchTopK") and set(together.curves["dictionary"]) == {"a", "b"}


# -- kill and resume -----------------------------------------------------------------------------------------------
KILLED = """
import os, signal, sys
sys.path.insert(0, "tests")
from dictionaries.test_train import resumable
def stop(step, metrics):
    if step == 11:
        os.kill(os.getpid(), signal.SIGKILL)
resumable(sys.argv[1], callbacks=[stop])
"""


def resumable(folder, **more) -> TrainedDictionaries:
    """Thresholds in logarithms, a pressure, a threshold that follows batches, latents drawn anew: all with a state."""
    jump = replace(JUMPRELU_SHORT, rate=1e-2, l0=2.0, resample=2)
    pair = {
        "jump": (new(JumpReLU(start=0.1, bandwidth=0.3, through=True)), jump),
        "batch": (new(BatchTopK(k=2)), BATCHTOPK),
    }
    return train(SOURCE, pair, batch=32, rows=640, folder=folder, save_seconds=0.0, **more)


def test_a_training_that_was_killed_ends_in_the_same_bits(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / "killed").exists() and (tmp_path / "killed.training" / "curves.parquet").exists()
    steps = []
    resumed = resumable(tmp_path / "killed", callbacks=[lambda step, told: steps.append(step)])
    assert steps[0] == 11, "it goes on from the step before the kill"
    whole = resumable(tmp_path / "whole")
    for name, dictionary in whole.dictionaries.items():
        assert same(resumed.dictionaries[name], dictionary)
    timed = ("rows_per_second", "seconds_left")
    assert resumed.curves.drop(timed).equals(whole.curves.drop(timed)) and resumed.rows == whole.rows
    assert not (tmp_path / "killed.training").exists()


def interrupted(folder, at=5, **more):
    def stop(step, told):
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SOURCE, new(), QUICK, batch=32, folder=folder, save_seconds=0.0, callbacks=[stop], **more)


@pytest.mark.parametrize("where", ["in a step", "between steps"])
def test_a_ctrl_c_keeps_the_last_whole_step_and_ends_in_the_same_bits(where, tmp_path, monkeypatch):
    whole = resumable(None)
    owner, name = (Trainer, "step") if where == "in a step" else (Shuffled, "__iter__")
    before, calls = getattr(owner, name), []

    def step(self, rows):
        before(self, rows)
        calls.append(1)
        if len(calls) == 13:  # the first of the two dictionaries, in step 7
            os.kill(os.getpid(), signal.SIGINT)

    def serve(self):
        for number, rows in enumerate(before(self)):
            if number == 7:
                raise KeyboardInterrupt
            yield rows

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, step if where == "in a step" else serve)
        with pytest.raises(KeyboardInterrupt):
            resumable(tmp_path / "a")
    state = json.loads((tmp_path / "a.training" / "state.json").read_text())
    assert state["step"] == state["order"]["step"] == 7
    resumed = resumable(tmp_path / "a")
    assert all(same(resumed.dictionaries[name], dictionary) for name, dictionary in whole.dictionaries.items())


def test_another_training_is_not_resumed(tmp_path):
    interrupted(tmp_path / "a")
    with pytest.raises(BadInput, match=r"seed 0 there, 1 here; recipe of sae .*rate=0\.01.* there, .*rate=0\.5"):
        train(SOURCE, new(), replace(QUICK, rate=0.5), batch=32, seed=1, folder=tmp_path / "a")
    (tmp_path / "a.training" / "state.safetensors").write_bytes(b"short")
    with pytest.raises(LoadError, match="is broken"):
        train(SOURCE, new(), QUICK, batch=32, folder=tmp_path / "a")


def test_a_finished_training_is_not_done_again(tmp_path):
    result = train(SOURCE, new(), QUICK, batch=64, folder=tmp_path / "a")
    with pytest.raises(BadInput, match="finished training"):
        train(SOURCE, new(), QUICK, batch=64, folder=tmp_path / "a")
    again = TrainedDictionaries.load(tmp_path / "a")
    assert same(again.dictionary, result.dictionary) and again.curves.equals(result.curves)
    assert again.dictionary.config.origin["recipe"] == "TopK" and again.dictionary.config.origin["rows"] == 600
    with pytest.raises(LoadError, match=r"TrainedDictionaries\.load"):
        _ = load_result(tmp_path / "a").dictionary  # type: ignore[attr-defined]


# -- what goes wrong -----------------------------------------------------------------------------------------------
def test_a_loss_that_is_not_finite_stops_and_names_its_term(tmp_path):
    class Spoiled(Held):
        def chunks(self, start=0):
            for rows in super().chunks(start):
                x = rows["x"].clone()
                x[500:] = torch.nan
                yield Rows({"x": x}, rows.ids, rows.numbers)

    spoiled = Spoiled({"x": activations()})
    with pytest.raises(NotFinite, match="Reconstruction is no longer finite"):
        train(spoiled, new(), QUICK, batch=32, buffer=32, folder=tmp_path / "a", save_seconds=0.0)
    steps = []
    (state,) = tmp_path.glob("a.training/state.json")
    assert '"step": 15' in state.read_text(), "rows from 500 on come in step 16"
    assert not (tmp_path / "a").exists() and not steps


def test_what_cannot_be_trained_says_why():
    with pytest.raises(BadInput, match="needs the column x"):
        train(Held({"y": activations()}), new())
    with pytest.raises(ShapeMismatch, match="rows of 8 numbers"):
        train(Held({"x": activations(width=6)}), new())
    with pytest.raises(BadInput, match="column x is constant"):
        train(Held({"x": torch.ones(50, 8)}), new())
    with pytest.raises(NotFinite, match="column x has a NaN"):
        train(Held({"x": activations() / 0}), new())
    with pytest.raises(BadInput, match="L0Step of the recipe JumpReLU cannot be asked of a dictionary of topk"):
        train(SOURCE, new(), JUMPRELU)
    with pytest.raises(BadInput, match="has no penalty that could move it"):
        train(SOURCE, new(), replace(TOPK, l0=3.0))
    with pytest.raises(BadInput, match="through the jump"):
        train(SOURCE, new(JumpReLU(through=True)), JUMPRELU)
    with pytest.raises(BadInput, match="a loss twice"):
        train(SOURCE, new(), replace(TOPK, terms=(*TOPK.terms, Term(loss=Reconstruction()))))
    with pytest.raises(BadInput, match="no name of a dictionary"):
        train(SOURCE, {"../a": new()})
    with pytest.raises(BadInput, match="no dictionary to train"):
        train(SOURCE, {})
    with pytest.raises(BadInput, match="this dictionary's have others"):
        train(SOURCE, initialise(new(), seed=0, length=0.1), TOPK)
    with pytest.raises(BadInput, match="cannot be kept at length one"):
        train(Held({"x": activations(), "y": activations(seed=1)}), molt({"x": 8}, {"y": 8}, [(4, 2)], Relu()), TOPK)


# -- the start -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", ["unit", "sqrt_d", "none"])
def test_columns_get_their_unit_and_biases_their_mean(scale):
    dictionary = prepare(new(), replace(TOPK, scale=scale), SOURCE, seed=0)
    x = activations() / dictionary.config.columns["x"].scale
    wanted = {"unit": x.square().sum(1).mean() - 1, "sqrt_d": x.norm(dim=1).mean() - math.sqrt(8), "none": 0.0}
    assert float(wanted[scale]) == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(dictionary.bias("x").detach(), x.mean(0))
    with_numbers = numbers(dictionary)["blocks.0.b_enc"]
    assert prepare(dictionary, APRIL_2024, SOURCE, seed=1).config.columns["x"].scale == pytest.approx(
        dictionary.config.columns["x"].scale
    )
    assert torch.equal(with_numbers, numbers(dictionary)["blocks.0.b_enc"]), "what has numbers keeps them"


def test_at_first_each_latent_fires_as_often_as_the_recipe_says():
    recipe = replace(JAN_2025, start=replace(JAN_2025.start, firing=2))
    dictionary = prepare(new(recipe.activation), recipe, SOURCE, seed=0).eval()
    with torch.no_grad():
        fired = dictionary.encode({"x": activations()})[0].fired()
    assert ((fired - 600 * 2 / 16).abs() <= 1).all()


# -- a step --------------------------------------------------------------------------------------------------------
def trainer(activation: Any, recipe, steps=20, **more) -> Trainer:
    return Trainer(prepare(new(activation), recipe, SOURCE, seed=0), recipe, steps=steps, **more)


def test_decoder_rows_keep_their_length_and_gradients_point_across():
    one = trainer(TopK(k=2), QUICK)
    W = one.dictionary.blocks[0].W_dec("x")
    seen = []
    step = one.optimiser.step
    one.optimiser.step = lambda: (seen.append((W.grad * W.detach()).sum(1).abs().max()), step())[1]  # type: ignore[method-assign]
    for rows in activations(rows=200).split(20):
        one.step({"x": rows})
    assert max(seen) < 1e-6
    torch.testing.assert_close(W.detach().norm(dim=1), torch.ones(16))


def test_columns_that_are_written_together_share_one_length():
    columns = {"x": activations(), "y": activations(seed=1)}
    made = crosscoder({"x": 8, "y": 8}, 16, TopK(k=2))
    recipe = replace(QUICK, start=replace(QUICK.start, length=math.sqrt(0.5)))
    made = train(Held(columns), made, recipe, batch=50).dictionary
    torch.testing.assert_close(made.blocks[0].norms().detach(), torch.ones(16))


def test_thresholds_in_logarithms_move_by_factors():
    """Adam's first step is the rate, whatever the gradient's size; its squares tell that θ was multiplied in."""
    one = trainer(JumpReLU(start=0.2, bandwidth=0.4), replace(JUMPRELU, rate=0.01, schedule=Schedule(), clip=None))
    block = one.dictionary.blocks[0]
    passed = one.dictionary.run({"x": activations()})
    loss = Reconstruction()(one.dictionary, passed, Clock())
    loss = loss + JUMPRELU.terms[1].coefficient * 1 / (0.1 * 20) * L0Step()(one.dictionary, passed, Clock())
    (grad,) = torch.autograd.grad(loss, [block.own("threshold")])
    one.step({"x": activations()})
    factor = (block.own("threshold") / 0.2).detach().log()
    moved = grad != 0
    torch.testing.assert_close(factor[moved], -0.01 * grad[moved].sign(), rtol=1e-3, atol=1e-6)
    leaf = one.leaves["blocks.0.threshold"]
    first = one.optimiser.state[leaf]["exp_avg_sq"]
    torch.testing.assert_close(first, (grad * 0.2).square() * 0.001, rtol=1e-3, atol=1e-12)


def test_dead_latents_are_counted_in_rows_and_revived_by_the_auxiliary_loss():
    """Encoders of half the latents are so small that others always win; only the auxiliary loss reaches them."""

    def after(terms):
        one = trainer(TopK(k=2), replace(QUICK, terms=terms, dead_after=100, schedule=Schedule()), steps=40)
        encoder = one.dictionary.blocks[0].W_enc[0]
        with torch.no_grad():
            encoder[:8] *= 1e-3
            one.dictionary.blocks[0].b_enc[8:] = 5.0
        for step in range(4):
            one.step({"x": activations(rows=25, seed=step)})
        assert one.dead_share() >= 0.5 and int(one.quiet[0][:8].min()) == 100
        early = encoder[:8].detach().clone()
        for step in range(36):
            one.step({"x": activations(rows=25, seed=step)})
        return float((encoder[:8] - early).detach().abs().max())

    assert after(TOPK.terms[:1]) == 0
    assert after(TOPK.terms) > 0.05


def test_dead_latents_are_drawn_anew_where_errors_are_large():
    recipe = replace(QUICK, terms=TOPK.terms[:1], resample=1, dead_after=50)
    one = trainer(TopK(k=2), recipe, steps=30)
    with torch.no_grad():
        one.dictionary.blocks[0].b_enc[:8] = -20.0
    for step in range(30):
        one.step({"x": activations(rows=25, seed=step)})
    fired = one.dictionary.eval().encode({"x": activations()})[0].fired()
    assert (fired[:8] > 0).any() and (one.dictionary.blocks[0].b_enc[:8] > -1).all()
    torch.testing.assert_close(one.dictionary.blocks[0].norms().detach(), torch.ones(16))


@pytest.mark.slow
@pytest.mark.parametrize("wish", slow_but([1.5], [0.7, 1.5]))
def test_an_l0_that_is_wished_is_met(wish):
    recipe = replace(JUMPRELU_SHORT, rate=1e-2, l0=wish)
    x = Held({"x": activations(rows=4000)})
    result = train(x, new(JumpReLU(start=0.1, bandwidth=0.3, through=True)), recipe, batch=64, rows=16_000)
    assert result.curves["l0"][-10:].mean() == pytest.approx(wish, rel=0.1)
    assert result.curves["pressure"][-1] > 1.5


def test_after_training_a_threshold_stands_in_for_the_batch():
    result = train(Held({"x": activations(rows=4000)}), new(BatchTopK(k=2)), replace(BATCHTOPK, rate=1e-2), batch=64)
    with torch.no_grad():
        fires = result.dictionary.encode({"x": activations(rows=2000, seed=0)[1000:]})[0].count()
    assert not result.dictionary.training and float(fires.float().mean()) == pytest.approx(2, rel=0.1)


# -- what is told --------------------------------------------------------------------------------------------------
def test_curves_say_what_happened(tmp_path):
    told = []
    result = train(
        SOURCE, new(), QUICK, batch=100, rows=6000, callbacks=[lambda step, metrics: told.append((step, metrics))]
    )
    curves = result.curves
    assert [step for step, _ in told] == curves["step"].to_list() and told[-1][1]["sae"]["fvu"] == curves["fvu"][-1]
    assert curves["fvu"][-1] < 0.5 * curves["fvu"][0] and curves["Reconstruction"][-1] < curves["Reconstruction"][0]
    assert (curves["l0"] <= 2).all() and curves["density"].list.sum().unique().to_list() == [16]
    assert curves["rate"][0] < curves["rate"].max() and curves["rate"][-1] < 1e-3
    with torch.no_grad():
        x = activations()
        left = (x - result.dictionary({"x": x})["x"]).square().sum() / (x - x.mean(0)).square().sum()
    assert curves["fvu"][-5:].mean() == pytest.approx(float(left), rel=0.2)
    assert result.verdict.startswith("After 6,000 rows sae leaves ")
    assert result.to_frame().schema["density"] == pl.List(pl.Int64)


@pytest.mark.parametrize(("callback", "package"), [(TensorBoard, "tensorboard"), (WandB, "wandb")])
def test_what_is_not_installed_is_named(monkeypatch, callback, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=rf"needs the package {package}.*digsite\[logs\]"):
        callback("somewhere")


# -- recipes -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns(name):
    recipe = replace(RECIPES[name], rate=1e-2, l0=None)
    activation = replace(recipe.activation, k=3) if hasattr(recipe.activation, "k") else recipe.activation
    x = activations(rows=1000)
    columns = {"x": x, "y": torch.relu(x - 3) @ torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) + 1}
    made = {
        "transcoder": lambda: transcoder({"x": 8}, {"y": 8}, 16, activation),
        "crosscoder": lambda: crosscoder({"x": 8, "y": 8}, 16, activation),
        "MOLT": lambda: molt({"x": 8}, {"y": 8}, [(8, 2), (16, 1)], activation),
        "Matryoshka": lambda: sae({"x": 8}, 16, activation, prefixes=(4, 16)),
    }.get(name, lambda: sae({"x": 8}, 16, activation))()
    result = train(Held(columns), made, recipe, batch=100, rows=5000)
    first, last = result.curves.row(0, named=True), result.curves.row(-1, named=True)
    assert last["fvu"] < 0.8 * first["fvu"], (first, last)


def test_schedules_rise_and_fall():
    line = Schedule(rise=0.1, fall=0.2)
    assert [line(step, 100) for step in (0, 9, 50, 80, 90, 99)] == pytest.approx([0.1, 1, 1, 1, 0.5, 0.05])
    short = Schedule(rise=1000)
    assert short(9, 100) == 1 and short(0, 100_000) == pytest.approx(0.001)
    assert Schedule(rise=0.5, shape="cosine")(24, 100) == pytest.approx(0.5)


def test_the_penalty_of_a_recipe_grows_over_the_whole_run():
    assert [term.schedule(49, 100) for term in JAN_2025.terms] == [1.0, 0.5, 1.0]
    assert isinstance(JAN_2025.terms[1].loss, Tanh) and TRANSCODER.terms == TOPK.terms
