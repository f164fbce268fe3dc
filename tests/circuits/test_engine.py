"""One engine under every circuit method: the mux is the model at its ends, gradients are what cutting a little does."""

import pytest
import torch

import digsite
from architectures import CONFIGS, OTHERS, tiny
from digsite._core.errors import BadInput, ShapeMismatch, Unsupported
from digsite.circuits import EdgeMux, eap, eap_ig, evaluate_circuit, exhaustive, relp
from digsite.circuits.written import Outputs, sites
from digsite.graphs import edge_space
from paired import paired_task
from slowly import slow_but

NAMES = [*CONFIGS, *OTHERS]
FEW = ("gpt2", "gemma2", "olmo2", "gpt_neox", "bloom", "mixtral")


def near(a, b):
    """Equal: weights are float64, but many norms compute in float32 whatever they are given."""
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


JUMPING = {
    "llama4": "its last position does not see the position that differs",
    "qwen3_moe": "which experts a token is sent to jumps, and has no slope",
}


def logits_of(mux, masks):
    """The logits under each mask, in the order of the masks."""
    found = {one: logits for which, some in mux(masks) for one, logits in zip(which, some, strict=True)}
    return torch.stack([found[i] for i in range(len(masks))])


SINGLE = ("gpt2_upcast", "granitemoe", "gpt_oss", "mixtral", "qwen3_moe")
"""Have kernels or casts that take no float64."""


def loaded(name, dtype=torch.float64):
    dtype = torch.float32 if name in SINGLE else dtype
    model = digsite.load(tiny(name, dtype), verify=name.startswith("falcon"))  # Falcon overwrites what it read
    try:
        edge_space(model)
    except Unsupported as refusal:
        pytest.skip(str(refusal).splitlines()[0])
    return model


@pytest.mark.parametrize("name", slow_but(FEW, NAMES))
def test_no_edge_is_the_clean_run_and_every_edge_the_corrupt_one(name):
    model, task = loaded(name, torch.float32), paired_task(3, lengths=(7, 5))
    mux = EdgeMux(model, task.clean, task.require_corrupt())
    ends = torch.stack([torch.zeros_like(mux.space.real), mux.space.real])
    clean, corrupt = logits_of(mux, ends)
    assert torch.equal(clean, model.run(task.clean, logits=1).logits)
    assert torch.allclose(corrupt, model.run(task.require_corrupt(), logits=1).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_what_writers_write_sums_to_the_stream(name):
    model, task = loaded(name), paired_task(2)
    last = f"layers.{model.n_layers - 1}.resid_post"
    runs = [model.run(tokens, read=[*sites(model), last]) for tokens in (task.clean, task.require_corrupt())]
    outputs = Outputs(model)
    written = outputs.expand(outputs.of(runs[0])).sum(1) - outputs.expand(outputs.of(runs[1])).sum(1)
    assert near(written, runs[0][last] - runs[1][last])


@pytest.mark.parametrize("name", slow_but(FEW, [name for name in NAMES if name not in JUMPING]))
def test_a_score_is_what_the_first_bit_of_cutting_does(name):
    model, task = loaded(name), paired_task(3)
    found = eap(model, task)
    mux = EdgeMux(model, task.clean, task.require_corrupt())
    generator = torch.Generator().manual_seed(0)
    real = mux.space.real.nonzero()
    some = real[torch.randperm(len(real), generator=generator)[:8]]
    little = torch.zeros(2 * len(some), *mux.space.real.shape, dtype=torch.float64)
    step = 1e-3
    for i, (writer, reader) in enumerate(some.tolist()):
        little[2 * i, writer, reader], little[2 * i + 1, writer, reader] = step, -step
    metric = torch.stack([task.metric(one) for one in logits_of(mux, little)])
    slope = -(metric[::2] - metric[1::2]) / (2 * step)
    scores = found.scores[:, 0, some[:, 0], some[:, 1]].T
    assert float((scores - slope).abs().max()) < 1e-3 + 0.01 * float(found.scores.abs().max())


def brute(model, task, mask):
    """The same by plain runs: one reader after the other, live values read again each time."""
    space, edits = edge_space(model), []
    donor = model.run(task.require_corrupt(), read=list(space.writers))
    for j, reader in enumerate(space.readers):
        cut = [space.writers[i] for i in range(space.before[j]) if mask[i, j]]
        if cut:
            live = model.run(task.clean, read=cut, edits=edits)
            site = f"layers.{model.n_layers - 1}.resid_post" if reader == "logits" else reader
            edits.append(digsite.add(site, torch.stack([donor[writer] - live[writer] for writer in cut]).sum(0)))
    return model.run(task.clean, edits=edits, logits=1).logits


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma"])
def test_any_mask_is_what_plain_runs_give(name):
    model, task = loaded(name), paired_task(2)
    mux = EdgeMux(model, task.clean, task.require_corrupt())
    masks = (torch.rand(2, *mux.space.real.shape, generator=torch.Generator().manual_seed(1)) < 0.2) & mux.space.real
    for mask, logits in zip(masks, logits_of(mux, masks), strict=True):
        assert near(logits, brute(model, task, mask))


@pytest.mark.parametrize("name", slow_but(FEW, NAMES))
def test_what_a_late_pass_leaves_out_changes_nothing(name, monkeypatch):
    """Circuits as a search meets them, together: whole below some reader, and few edges above it."""
    model, task = loaded(name), paired_task(2)
    mux = EdgeMux(model, task.clean, task.require_corrupt())
    readers, generator = len(mux.space.readers), torch.Generator().manual_seed(1)
    masks = (torch.rand(4, *mux.space.real.shape, generator=generator) < 0.85) & mux.space.real
    for mask, start in zip(masks, (0, readers // 2 - 1, readers // 2, readers - 1), strict=True):
        mask[:, :start] = False
    whole = torch.stack([mux.graded(mask.double()) for mask in masks])
    for alone in (1, 24):
        monkeypatch.setattr("digsite.circuits.mux.ALONE", alone)
        assert near(logits_of(mux, masks), whole)


def test_a_late_pass_runs_only_what_is_changed_and_heard():
    """Everything from the second layer on is cut, but what its heads write."""
    model, task = loaded("llama"), paired_task(2)
    mux, ran = EdgeMux(model, task.clean, task.require_corrupt()), []
    space = mux.space
    mask = space.real.clone()
    mask[:, : space.readers.index("layers.1.attn.q_in[0]")] = False
    mask[[space.writers.index(f"layers.1.attn.result[{head}]") for head in range(model.n_heads)]] = False
    for block in model.anatomy.blocks:
        for name, module in (("attn", block.parts["o"]), ("mlp", block.parts["down"])):
            module.register_forward_hook(lambda *_, branch=(block.index, name): ran.append(branch))
    list(mux(mask[None]))
    assert ran == [(1, "attn")]


def test_post_norm_heads_are_patched_by_the_norms_own_linear_map():
    """Gemma 2: attention passes a norm before the stream. All heads together are attention."""
    model, task = loaded("gemma2"), paired_task(2)
    run = model.run(task.clean, read=[*sites(model), "layers.1.attn.out"])
    outputs = Outputs(model)
    whole = outputs.heads(1, outputs.of(run).z[1]).sum(1)
    apart = run["layers.1.attn.out"] - whole
    assert near(apart, apart[:1, :1].expand_as(apart)) or model.weights.b_O[1] is not None


def frozen_linear():
    """A GPT-2 whose attention looks at the token itself alone, whose norms divide by a constant, and without MLPs."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=2, n_positions=16)).double().eval()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "ln_" in name:
                parameter.fill_(1e4 if name.endswith("weight") else 0.0)
            elif "c_attn.weight" in name:
                parameter[:, :64] = 0.0  # every query is zero: attention is uniform over what is before
                parameter[:, 64:] = 0.5 * torch.randn(32, 32)
            elif "mlp.c_proj.weight" in name:
                parameter[:] = 0.0
        for module in hf.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e8
    return digsite.load(hf.requires_grad_(False), verify=False)


def test_on_a_linear_model_all_methods_agree_and_scores_sum_to_the_change():
    model, task = frozen_linear(), paired_task(4)
    found = [eap(model, task), relp(model, task), eap_ig(model, task, steps=3)]
    space = found[0].space
    single = torch.zeros(len(space), *space.real.shape, dtype=torch.bool)
    places = space.real.nonzero()
    single[torch.arange(len(space)), places[:, 0], places[:, 1]] = True
    exact = found[0].clean - evaluate_circuit(model, task, space.real & ~single)
    for one in found:
        scores = one.scores[:, 0, places[:, 0], places[:, 1]].T
        assert torch.allclose(scores, exact, atol=1e-5), one.method
        first = [i for i, name in enumerate(space.writers) if "layers" not in name]
        change = (one.clean - one.corrupt).float()
        assert torch.allclose(one.scores.sum((1, 3))[:, first].sum(1), change, atol=1e-5)
        into_logits = one.scores[:, 0, :, -1].sum(1)
        assert torch.allclose(into_logits, change, atol=1e-5)


@pytest.mark.slow
def test_integrated_gradients_add_up_as_steps_grow():
    model, task = loaded("llama"), paired_task(3)
    gaps = []
    for steps in (4, 32, 256):
        found = eap_ig(model, task, steps=steps)
        gaps.append(abs(found.predicted() - float((found.clean - found.corrupt).mean())))
    assert gaps[2] < gaps[1] < gaps[0]
    assert gaps[2] < 0.02 * float((found.clean - found.corrupt).abs().mean())


def test_node_scores_are_the_gradient_at_the_output_times_the_difference():
    model, task = loaded("gpt2"), paired_task(3)
    found = eap(model, task)
    names = ["layers.1.attn.z", "layers.1.mlp.out"]
    runs = [model.run(tokens, read=names, grad=True, logits=1) for tokens in (task.clean, task.require_corrupt())]
    gradients = torch.autograd.grad(task.metric(runs[0].logits).sum(), [runs[0][name] for name in names])
    z, mlp = ((runs[0][n] - runs[1][n]).detach() * g for n, g in zip(names, gradients, strict=True))
    nodes = dict(zip(found.writers, found.nodes().T, strict=True))
    assert torch.allclose(nodes["layers.1.mlp.out"].double(), mlp.sum((1, 2)), atol=1e-5)
    for head in range(model.n_heads):
        assert torch.allclose(nodes[f"layers.1.attn.result[{head}]"].double(), z[:, :, head].sum((1, 2)), atol=1e-5)


def test_scores_of_places_sum_to_the_scores():
    model, task = loaded("llama"), paired_task(4)
    whole, spans, each = (eap(model, task, at=at).scores for at in (None, ["subject"], "each"))
    assert torch.allclose(spans.sum(1), whole[:, 0], atol=1e-6)
    assert torch.allclose(each.sum(1), whole[:, 0], atol=1e-6)
    assert each.shape[1] == 7


def test_batches_change_nothing():
    model, task = loaded("gpt2", torch.float32), paired_task(5, lengths=(7, 5))
    assert torch.allclose(eap(model, task, batch=2).scores, eap(model, task).scores, atol=1e-7)
    kept = (torch.rand(3, *edge_space(model).real.shape) < 0.5) & edge_space(model).real
    assert torch.allclose(evaluate_circuit(model, task, kept, batch=2), evaluate_circuit(model, task, kept), atol=1e-6)


def test_all_subsets_of_some_edges():
    model, task = loaded("gpt2"), paired_task(2)
    space = edge_space(model)
    edges = [space.edges[i] for i in (0, 30, 60)]
    subsets, metric = exhaustive(model, task, edges)
    assert subsets.shape == (8, 3) and not subsets[0].any() and subsets[-1].all()
    only = space.real.clone()
    only[space.index(edges[1])] = False
    row = int((subsets == torch.tensor([True, False, True])).all(1).nonzero())
    assert torch.allclose(metric[row], evaluate_circuit(model, task, only[None])[0])
    with pytest.raises(BadInput, match="17 edges are too many"):
        exhaustive(model, task, space.edges[:17])


def test_edge_semantics_is_another_number_and_the_same_at_its_ends():
    model, task = loaded("llama"), paired_task(3)
    space = edge_space(model)
    half = (torch.rand(space.real.shape, generator=torch.Generator().manual_seed(2)) < 0.5) & space.real
    kept = torch.stack([torch.zeros_like(half), half, space.real])
    tree, edge = (evaluate_circuit(model, task, kept, semantics=name) for name in ("tree", "edge"))
    assert torch.allclose(tree[[0, 2]], edge[[0, 2]], atol=1e-5)
    assert float((tree[1] - edge[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_with_every_edge_kept_the_donor_does_not_matter(how):
    model, task = loaded("gpt2"), paired_task(3)
    space = edge_space(model)
    kept = torch.stack([space.real, torch.zeros_like(space.real)])
    metric = evaluate_circuit(model, task, kept, how=how)
    clean = task.metric(model.run(task.clean, logits=1).logits)
    assert torch.allclose(metric[0].double(), clean, atol=1e-6)
    if how == "zero":  # nothing but biases reaches the logits, whatever the prompt says
        same = task.metric(model.run(task.require_corrupt(), logits=1).logits)
        assert not torch.allclose(metric[1].double(), same)


def test_prompts_of_different_length_are_refused():
    model, task = loaded("gpt2"), paired_task(2)
    from dataclasses import replace

    from digsite.models.tokens import grid

    longer = replace(task, corrupt=grid([[*row.tolist(), 5] for row in task.clean.ids], padding="left"))
    with pytest.raises(BadInput, match="must have the same length"):
        eap(model, longer)
    with pytest.raises(ShapeMismatch, match="donor does not fit"):
        EdgeMux(model, task.clean, longer.require_corrupt())


def test_a_metric_that_never_changes_is_refused():
    model, task = loaded("gpt2"), paired_task(2, same=True)
    with pytest.raises(BadInput, match="no edge has a share"):
        eap(model, task)
