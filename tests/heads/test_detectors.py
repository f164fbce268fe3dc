"""Detectors find the heads that are declared, beside nulls that find nothing, whatever the batch and the padding."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import digsite
from architectures import tiny
from digsite._core.errors import BadInput, Unsupported
from digsite.heads import HeadScores, confirm_heads, head_scores, random_repeats
from digsite.heads.attending import SUPPRESSION
from digsite.heads.detectors import ALL, ENTROPY
from digsite.heads.patterns import KINDS
from digsite.models.load import wrap
from digsite.models.tokens import grid
from digsite.toys.aligned import aligned
from digsite.toys.compiled import compile_program
from digsite.toys.trained.induction import network, recipe, repeats
from paired import paired_task

LOOKS = list(KINDS)


def untrained(name):
    return wrap(tiny(name), None, name=name, revision=None, attention="eager")


@pytest.fixture(scope="module")
def compiled():
    return compile_program("induction")


@pytest.fixture(scope="module")
def scored(compiled):
    text = compiled.tokens(compiled.program.rows[::20])
    return head_scores(compiled.model, text=text, rows=20, kinds=[*LOOKS, ENTROPY], random_weights=True)


def test_a_compiled_program_has_the_heads_it_was_compiled_to(scored):
    assert scored.found("previous token") == [(0, 0)]
    assert scored.found("induction") == [(1, 0)]
    assert scored.found("duplicate token") == scored.found("first token") == []
    assert float(scored.of("induction").mean[1, 0]) == pytest.approx(1.0, abs=1e-5)
    assert "induction 1.0" in scored.verdict and "none found: duplicate token, first token" in scored.verdict


@pytest.mark.parametrize(
    ("program", "kind", "layer"), [("previous-token", "previous token", 0), ("duplicate-token", "duplicate token", 0)]
)
def test_other_programs(program, kind, layer):
    made = compile_program(program)
    scores = head_scores(made.model, text=made.tokens(made.program.rows[::20]), rows=0, kinds=LOOKS)
    assert scores.found(kind) == [(layer, 0)]
    assert not any(scores.found(other) for other in LOOKS if other not in (kind, "first token"))


def test_an_aligned_network_attends_back_where_it_was_told_to():
    known = aligned("aligned-induction")
    rows = known.tokens(known.program.rows(np.random.default_rng(0), 60, held_out=True))
    scores = head_scores(known.model, text=rows, rows=0, kinds=LOOKS, random_weights=True)
    assert scores.found("previous token") == [(0, 1)]


def test_induction_by_elimination_is_seen_in_the_logits_and_not_in_the_pattern():
    """The declared induction head of this network looks at all letters but the one that follows and says: not those."""
    known = aligned("aligned-induction")
    rows = known.tokens(known.program.rows(np.random.default_rng(0), 60, held_out=True))
    scores = head_scores(known.model, text=rows, rows=0, random_weights=True)
    assert scores.found("induction") == [] and float(scores.of("induction").mean[1, 2]) < 0.05
    assert scores.found(SUPPRESSION)[0] == (1, 2)


def test_nothing_is_claimed_of_random_weights():
    for name in ("llama", "gpt2"):
        model = untrained(name)
        scores = head_scores(model, rows=30, kinds=[*LOOKS, SUPPRESSION, ENTROPY])
        assert not scores.to_frame()["found"].any(), name
        assert "none of any kind" in scores.verdict


def test_random_weights_stand_beside_and_can_refuse(scored):
    frame = scored.to_frame()
    assert frame["random"].is_not_null().all()
    one = scored.of("induction")
    assert replace(one, random=one.mean + 0.1).found.any().item() is False


def test_heads_of_random_weights_attend_to_nearly_everything_alike():
    scores = head_scores(digsite.load("digsite/tinyworld"), rows=8, kinds=[ENTROPY], random_weights=True).of(ENTROPY)
    assert float(scores.random.min()) > 0.95 and float(scores.mean.min()) < 0.7


def test_entropy_is_one_where_a_head_looks_everywhere_alike():
    made = compile_program("duplicate-token")  # its second layer has no attention at all
    scores = head_scores(made.model, rows=4, kinds=[ENTROPY]).of(ENTROPY)
    assert float(scores.mean[1, 0]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "falcon_grouped"])
def test_batched_is_single_and_padded_on_the_left_is_unpadded(name):
    model = untrained(name)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 20, (n,), generator=generator).tolist() for n in (14, 19, 11)]
    kinds = [*LOOKS, SUPPRESSION, ENTROPY]
    asked = {"rows": 0, "kinds": kinds}
    left, right = (head_scores(model, text=grid(rows, pad=5, padding=side), **asked) for side in ("left", "right"))
    single = [head_scores(model, text=grid([row]), **asked) for row in rows]
    for kind in kinds:
        wanted = torch.cat([one.of(kind).values for one in single], -1)
        for padded in (left, right):
            torch.testing.assert_close(padded.of(kind).values, wanted, rtol=1e-4, atol=2e-5)
            null = torch.stack([one.of(kind).null for one in single]).mean(0)
            torch.testing.assert_close(padded.of(kind).null, null, rtol=1e-4, atol=2e-5)


def test_the_pattern_that_a_run_holds_is_not_written(monkeypatch):
    """TransformerLens before 3.9.0 wrote into the cached pattern, so that a second detector saw another one."""
    model = untrained("llama")
    text = grid([[1, 7, 8, 9, 7, 8, 9]])
    held, run = [], type(model).run

    def watched(self, *args, **kwargs):
        made = run(self, *args, **kwargs)
        held.append((made, {site: made[site].clone() for site in kwargs["read"]}))
        return made

    monkeypatch.setattr(type(model), "run", watched)
    head_scores(model, text=text, rows=0, kinds=LOOKS)
    assert held and all(torch.equal(run[site], was) for run, before in held for site, was in before.items())
    alone = [head_scores(model, text=text, rows=0, kinds=[kind]).of(kind).values for kind in LOOKS]
    together = head_scores(model, text=text, rows=0, kinds=LOOKS)
    assert all(torch.equal(one, together.of(kind).values) for one, kind in zip(alone, LOOKS, strict=True))


def test_copy_suppression_is_the_direct_effect_on_what_is_attended_to():
    """Said again in loops, from the sites themselves."""
    model = untrained("gpt2")
    ids = [5, 9, 7, 9, 11, 6]
    found = head_scores(model, text=grid([ids]), rows=0, kinds=[SUPPRESSION]).of(SUPPRESSION).values
    run = model.run(torch.tensor([ids]), read=["layers.*.attn.pattern", "layers.*.attn.result", "layers.2.resid_post"])
    norm: Any = model.anatomy.final_norm
    w_u = model.weights.W_U
    for layer in range(3):
        for head in range(4):
            total = 0.0
            for dst in range(2, 6):
                scale = norm.scale(run["layers.2.resid_post"][0, dst])
                logits = norm.linear(run[f"layers.{layer}.attn.result"][0, dst, head], scale) @ w_u
                for src in range(1, dst):
                    weight = run[f"layers.{layer}.attn.pattern"][0, head, dst, src]
                    total -= float(weight * (logits[ids[src]] - logits.mean()))
            assert float(found[layer, head, 0]) == pytest.approx(total / 4, abs=1e-4)


def test_a_planted_suppressor_is_found():
    model = untrained("gpt2")
    hf = copy.deepcopy(model.hf)
    with torch.no_grad():  # head 2 of the last layer looks for its own token, and writes minus what it sees
        size, attn = 16, hf.transformer.h[2].attn
        some = slice(2 * size, 3 * size)
        down = torch.linalg.svd(hf.transformer.wte.weight, full_matrices=False).Vh[:size].T
        for part in range(2):
            attn.c_attn.weight[:, part * 64 :][:, some] = 4 * down
        attn.c_attn.weight[:, 128:][:, some] = down
        attn.c_proj.weight[some] = -60 * down.T
        for block in hf.transformer.h[:2]:
            block.attn.c_proj.weight.mul_(0.01)
            block.mlp.c_proj.weight.mul_(0.01)
        hf.lm_head.weight = torch.nn.Parameter(hf.transformer.wte.weight.clone())
        hf.transformer.wpe.weight.mul_(0.01)
    planted = wrap(hf, None, name="planted", revision=None, attention="eager")
    scores = head_scores(planted, rows=20, length=10, kinds=[SUPPRESSION])
    assert scores.found(SUPPRESSION)[0] == (2, 2)


# -- the induction toy, trained ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def trained():
    """The induction toy after as few steps as bring both heads."""
    made = recipe(0, steps=700)
    torch.manual_seed(0)
    net = network()
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=4e-3, weight_decay=0.1)
    for step in range(700):
        loss = made.loss(net, step)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    return digsite.load(net.eval())


@pytest.mark.slow
def test_the_trained_toy_has_both_kinds_of_head_and_needs_them(trained):
    rows = trained.tokens(repeats(np.random.default_rng(1), 40).ids)
    scores = head_scores(trained, text=rows, kinds=LOOKS, random_weights=True)
    assert {layer for layer, _ in scores.found("induction")} == {1}
    assert {layer for layer, _ in scores.found("previous token")} == {0}
    for kind in ("induction", "previous token"):
        check = confirm_heads(trained, scores.found(kind), tokens=rows, draws=3)
        assert float(check.rise.mean()) > 1.0


# -- the causal check ----------------------------------------------------------------------------------------------
def test_a_knockout_is_that_of_the_mean_and_others_are_others():
    model = untrained("llama")
    tokens = random_repeats(model, 6, length=8)
    check = confirm_heads(model, [(0, 1), (2, 3)], tokens=tokens, draws=4)
    edits = [digsite.ablate(f"layers.{i}.attn.z[{h}]", how="mean", over=tokens) for i, h in check.heads]
    logits = model.run(tokens, edits=edits).logits
    logp = logits.log_softmax(-1)[:, :-1].gather(2, tokens.ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(check.without, -logp[:, 8:].mean(1), rtol=1e-4, atol=1e-4)
    assert all(len(some) == 2 and not set(some) & set(check.heads) for some in check.drawn)
    assert check.to_frame().height == 5 and check.null.shape == (4,)


def test_without_the_induction_head_a_program_cannot_go_on(compiled):
    rows = compiled.tokens([row for row in compiled.program.rows if row[:3] == row[3:] and len(set(row)) == 3])
    check = confirm_heads(compiled.model, [(1, 0)], tokens=rows, draws=1)
    assert float(check.rise.mean()) > 0.3
    assert check.drawn == (((0, 0),),)


@pytest.mark.parametrize(
    ("heads", "said"),
    [([], "no head"), ([(9, 0)], "as many others"), ([(i, h) for i in range(3) for h in range(3)], "")],
)
def test_a_check_needs_heads_and_others(heads, said):
    with pytest.raises(BadInput, match=said or "as many others"):
        confirm_heads(untrained("llama"), heads, rows=2)


def test_a_check_needs_rows_that_foretell():
    with pytest.raises(BadInput, match="says anything twice"):
        confirm_heads(untrained("llama"), [(0, 0)], tokens=grid([[1, 2, 3, 4]]))


# -- rows ------------------------------------------------------------------------------------------------------------
def test_random_repeats_are_ordinary_tokens_said_twice():
    model = digsite.load("digsite/tinyworld")
    tokens = random_repeats(model, 5, length=10, seed=3)
    assert tokens.ids.shape == (5, 21) and set(tokens.ids[:, 0].tolist()) == {model.tokenizer.bos_token_id}
    assert torch.equal(tokens.ids[:, 1:11], tokens.ids[:, 11:])
    assert not set(tokens.ids[:, 1:].flatten().tolist()) & set(model.tokenizer.all_special_ids)
    assert all(len(set(row)) == 10 for row in tokens.ids[:, 1:11].tolist())
    assert torch.equal(tokens.ids, random_repeats(model, 5, length=10, seed=3).ids)


def test_rows_that_do_not_fit_are_refused():
    model = untrained("llama")
    for wrong in ({"length": 60}, {"length": 1}, {"rows": 0}):
        with pytest.raises(BadInput, match="segments that the context has room for"):
            random_repeats(model, **({"rows": 2, "length": 5} | wrong))


# -- bad input -------------------------------------------------------------------------------------------------------
def test_what_cannot_be_asked_says_what_can():
    model = untrained("llama")
    with pytest.raises(BadInput, match="no kind of head"):
        head_scores(model, kinds=["inductoin"])
    with pytest.raises(BadInput, match="names spans of a task"):
        head_scores(model, looks=[("answer", "subject")])
    with pytest.raises(BadInput, match="No row has a place"):
        head_scores(model, text=grid([[1, 2, 3]]), rows=0, kinds=["induction"])
    with pytest.raises(BadInput, match="no span 'nobody'"):
        head_scores(model, task=paired_task(), looks=[("answer", "nobody")], rows=0, kinds=[])
    with pytest.raises(BadInput, match="successor head cannot be looked for"):
        head_scores(model, kinds=["successor"])
    with pytest.raises(Unsupported, match="pattern"):
        head_scores(untrained("mamba"))
    with pytest.raises(BadInput, match="was not measured"):
        head_scores(model, rows=2, kinds=["induction"]).of("copying")


def test_a_result_comes_back_from_its_folder(scored, tmp_path):
    back = HeadScores.load(scored.save(tmp_path / "scores"))
    assert back.to_frame().equals(scored.to_frame()) and back.verdict == scored.verdict


def test_labelled_looks_are_measured_with_their_null():
    task = paired_task(n=6, lengths=(6, 8))
    one = head_scores(untrained("llama"), task=task, looks=[("answer", "subject")], rows=0, kinds=[])
    one = one.of("answer → subject", "pairs")
    assert one.values.shape == (3, 4, 6) and one.null.shape[-1] > 1
    assert set(ALL) > set(KINDS)
