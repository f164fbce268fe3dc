"""Every architecture keeps the contracts: sites are what they say, in runs that are exactly the model's own."""

import pytest
import torch

import digsite
from architectures import CONFIGS, OTHERS, UNKNOWN, VOCAB, tiny
from digsite._core.errors import NoSuchSite, Unsupported
from digsite.models._adapters.layouts import GROUPS
from digsite.models.load import wrap
from digsite.models.tokens import grid
from slowly import slow_but

EVERY = [*CONFIGS, *OTHERS, *UNKNOWN]
HALF = [name for name in EVERY if name != "mamba"]  # transformers' own mamba does not run in bfloat16 on a CPU
EPS = 1e-5
FEW = ("gpt2", "gemma2", "olmo2", "gpt_neox", "mistral_sliding", "falcon", "deepseek_v3")


def wrapped(hf, attention="eager"):
    return wrap(hf, None, name=hf.config.model_type, revision=None, attention=attention)


@pytest.fixture(scope="module", params=EVERY)
def verified(request):
    """A model of one architecture, and what was measured of its contracts in every layer."""
    model = wrapped(tiny(request.param))
    return model, model.verify(layers=range(model.n_layers))


@pytest.fixture(scope="module")
def model(verified):
    return verified[0]


@pytest.fixture(scope="module")
def rows():
    """Three rows of different lengths, as lists."""
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCAB, (length,), generator=draw).tolist() for length in (9, 6, 7)]


@pytest.fixture(scope="module")
def tokens(rows):
    return grid(rows, padding="left")


def alone(model, tokens, attention="eager"):
    """The Hugging Face model by itself."""
    arguments = {"attention_mask": tokens.mask.long()} if tokens.padded else {}
    if tokens.padded and "position_ids" in model.takes:
        arguments["position_ids"] = tokens.positions
    configs = {id(config): config for config in (model.hf.config, model.hf.config.get_text_config())}.values()
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation_internal = attention
    try:
        with torch.no_grad():
            return model.hf(tokens.ids, use_cache=False, **arguments).logits
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation


def apart(a, b, mask=None):
    gap = (a.float() - b.float()).abs()
    return float((gap if mask is None else gap[mask]).max())


def has(model, name, layer=1):
    return model.anatomy.has((layer, name))


def need(model, *names):
    """Skips where an architecture lacks a site, with the reason that a user would get."""
    for name in names:
        if not has(model, name):
            pytest.skip(model.anatomy.refused[1, name])


# -- exactness -----------------------------------------------------------------------------------------------------
def test_reading_and_writing_back_leave_every_logit(model, tokens):
    reference = alone(model, tokens)
    assert torch.equal(model.run(tokens, read=model.sites).logits, reference)
    assert torch.equal(model.run(tokens, read=model.sites, grad=True).logits.detach(), reference)
    same = [digsite.apply(site, lambda x: x * 1.0) for site in model.sites]
    assert torch.equal(model.run(tokens, edits=same).logits, reference)
    heads = [site for site in model.sites if site.kind.head_axis is not None]
    head = min(1, model.n_kv_heads - 1)
    single = [digsite.apply(f"{site}[{head}]", lambda x: x * 1.0) for site in heads]
    assert torch.equal(model.run(tokens, edits=single).logits, reference)


@pytest.mark.parametrize("name", slow_but(FEW, HALF))
def test_reading_is_exact_in_bfloat16(name, rows):
    model = wrapped(tiny(name, torch.bfloat16))
    found = model.verify()
    assert found.passed, found
    tokens = grid(rows)
    run = model.run(tokens, read=model.sites)
    assert torch.equal(run.logits, alone(model, tokens))
    assert {run[site].dtype for site in model.sites if not site.name.endswith(".scale")} <= {
        torch.bfloat16,
        torch.float32,
    }


def test_every_contract_holds_in_every_layer(verified):
    model, found = verified
    assert found.passed, found
    seen = {contract.name for contract in found.contracts if contract.difference is not None}
    assert {"fires", "reads", "writes", "causal", "embedding", "readout"} <= seen
    if model.anatomy.arch.attn and not model.anatomy.arch.post_norm and model.anatomy.arch.heads_in == "":
        assert {"stream", "projections", "meeting", "pattern", "mixing", "heads"} <= seen


def test_a_run_leaves_nothing_behind(model, tokens):
    before = {id(module): dict(module.__dict__) for module in model.hf.modules()}
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.hf.modules()]
    implementation = model.hf.config._attn_implementation
    reference = model.hf(tokens.ids, use_cache=False).logits

    def broken(x):
        raise ZeroDivisionError

    model.run(tokens, read=model.sites)
    with pytest.raises(ZeroDivisionError):
        model.run(tokens, read=model.sites, edits=[digsite.apply("layers.1.resid_post", broken)])
    with pytest.raises(ZeroDivisionError):
        model.run(tokens, read=model.sites, edits=[digsite.apply(model.sites[5], broken)], grad=True)
    for module in model.hf.modules():
        assert module.__dict__.keys() == before[id(module)].keys()
        assert "forward" not in module.__dict__ or module.__dict__["forward"] is before[id(module)]["forward"]
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.hf.modules()]
    assert model.hf.config._attn_implementation == implementation
    assert torch.equal(model.hf(tokens.ids, use_cache=False).logits, reference)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.hf.parameters())


# -- what the sites are --------------------------------------------------------------------------------------------
def test_the_stream_adds_up(model, tokens):
    run = model.run(tokens, read=model.sites)
    for layer in range(model.n_layers):
        if not (has(model, "attn.out", layer) and has(model, "mlp.out", layer)) or model.anatomy.arch.post_norm:
            continue
        total = sum(run[f"layers.{layer}.{part}"] for part in ("resid_pre", "attn.out", "mlp.out"))
        assert apart(total, run[f"layers.{layer}.resid_post"]) <= EPS
        if has(model, "resid_mid", layer):
            assert apart(run[f"layers.{layer}.resid_mid"], run[f"layers.{layer}.mlp.in"]) <= EPS
        if layer:
            assert torch.equal(run[f"layers.{layer}.resid_pre"], run[f"layers.{layer - 1}.resid_post"])


def test_heads_mix_their_values_and_add_up(model, tokens):
    need(model, "attn.pattern", "attn.v", "attn.z")
    run = model.run(tokens, read=[site for site in model.sites if site.layer == 1])
    pattern, v, z = (run[f"layers.1.attn.{part}"] for part in ("pattern", "v", "z"))
    v = v.repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)
    assert apart(torch.einsum("bnqk,bknh->bqnh", pattern, v), z, tokens.mask) <= EPS
    sums = pattern.sum(-1).transpose(1, 2)[tokens.mask]
    assert float(sums.max()) <= 1 + EPS
    if "gpt_oss" in model.name:
        assert float(sums.max()) < 1 - 1e-3, "a sink takes its share"
    else:
        assert float(sums.min()) >= 1 - EPS
    result = torch.einsum("bsnh,nhd->bsnd", z, model.weights.W_O[1])
    assert apart(result, run["layers.1.attn.result"], tokens.mask) <= EPS


def test_weights_make_queries_keys_and_values(model, tokens):
    need(model, "attn.q", "attn.k", "attn.v")
    run = model.run(tokens, read=[f"layers.1.{part}" for part in ("resid_pre", "attn.q", "attn.k", "attn.v")])
    norm = model.anatomy.blocks[1].parts.get("norm1")
    x = run["layers.1.resid_pre"]
    x = x if norm is None else norm(x)
    weights = model.weights
    for part, w, biases in (
        ("q", weights.W_Q, weights.b_Q),
        ("k", weights.W_K, weights.b_K),
        ("v", weights.W_V, weights.b_V),
    ):
        made = torch.einsum("bsd,ndh->bsnh", x, w[1])
        made = made + biases[1] if 1 in biases else made
        assert apart(made, run[f"layers.1.attn.{part}"], tokens.mask) <= EPS
        if model.anatomy.arch.layout is not GROUPS:  # whose queries lie between keys and values
            parameters = {p.untyped_storage().data_ptr() for p in model.hf.parameters()}
            assert w[1].untyped_storage().data_ptr() in parameters, "a view, not a copy"


# -- what edits do -------------------------------------------------------------------------------------------------
def test_every_site_of_a_layer_is_causal(model, tokens):
    """An edit at one position changes the logits from there on, in that row alone."""
    reference = model.run(tokens).logits
    start = tokens.starts[1]
    for site in [site for site in model.sites if site.layer in (1, None)]:

        def shaken(x):
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
            return x * 1.5 if x.shape[-1] == 1 else x + noise

        logits = model.run(tokens, edits=[digsite.apply(site, shaken, at=3, rows=[1])]).logits
        gap = (logits - reference).abs().amax(-1)
        assert gap[1, start + 3 :].max() > 1e-4, f"{site} changes nothing"
        assert gap[1, start : start + 3].max() < EPS, f"{site} changes the past"
        assert gap[[0, 2]][tokens.mask[[0, 2]]].max() < EPS, f"{site} changes other rows"


def test_an_edit_of_a_heads_input_is_its_two_run_definition(model, tokens):
    need(model, "attn.q_in", "attn.k_in", "attn.v_in")
    resid = model.run(tokens, read=["layers.1.resid_pre"])["layers.1.resid_pre"]
    stream = resid + torch.randn(resid.shape, generator=torch.Generator().manual_seed(3))
    reference = model.run(tokens).logits
    whole = model.run(
        tokens,
        read=[f"layers.1.attn.{part}" for part in "qkv"],
        edits=[digsite.replace("layers.1.resid_pre", stream)],
    )
    for part, head in (("q", model.n_heads - 1), ("k", model.n_kv_heads - 1), ("v", 0)):
        site = f"layers.1.attn.{part}[{head}]"
        defined = model.run(tokens, edits=[digsite.replace(site, whole[site])]).logits
        lowered = model.run(tokens, edits=[digsite.replace(f"layers.1.attn.{part}_in[{head}]", stream)]).logits
        assert apart(defined, lowered, tokens.mask) <= EPS
        assert apart(defined, reference, tokens.mask) > 1e-4
        read = model.run(tokens, read=[f"layers.1.attn.{part}_in[{head}]", f"layers.1.attn.{part}_in"])
        assert torch.equal(read[f"layers.1.attn.{part}_in[{head}]"], resid)
        assert torch.equal(read[f"layers.1.attn.{part}_in"][:, :, head], resid)


def test_resid_mid_is_the_stream_and_not_a_branch(model, tokens):
    need(model, "resid_mid")
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(4))
    middle, out, branch = (
        model.run(tokens, edits=[digsite.add(f"layers.1.{part}", vector)]).logits
        for part in ("resid_mid", "attn.out", "mlp.in")
    )
    assert apart(middle, out, tokens.mask) <= 10 * EPS
    assert apart(middle, branch, tokens.mask) > 1e-3


def test_a_norm_is_frozen_by_its_scale(model, tokens):
    """With the scale of another run, the norm is the linear map of that run."""
    need(model, "attn.norm", "attn.norm.scale")
    site, norm = "layers.1.attn.norm", model.anatomy.blocks[1].norm1
    scale = model.run(tokens, read=[f"{site}.scale"])[f"{site}.scale"]
    other = [digsite.scale("layers.0.resid_post", 2.0)]
    run = model.run(tokens, read=[site, "layers.1.resid_pre"], edits=[*other, digsite.replace(f"{site}.scale", scale)])
    frozen = norm.linear(run["layers.1.resid_pre"], scale) + norm.bias
    assert apart(run[site], frozen, tokens.mask) <= 10 * EPS
    free = model.run(tokens, read=[site], edits=other)[site]
    assert apart(run[site], free, tokens.mask) > 1e-3


# -- gradients -----------------------------------------------------------------------------------------------------
def metric(logits):
    weights = torch.randn(logits.shape[1:], generator=torch.Generator().manual_seed(5))
    return (logits * weights).sum()


def test_gradients_are_those_of_explicit_perturbations(model, rows):
    """What a site's gradient says equals autograd through a vector that an edit adds there."""
    tokens = grid([rows[0], rows[0][::-1]])
    parts = ("resid_pre", "attn.q", "attn.k_in", "attn.q_rot", "attn.scores", "attn.pattern", "attn.z", "attn.result",
             "resid_mid", "attn.out", "mlp.in", "mlp.norm.scale", "mlp.act", "mlp.out")  # fmt: skip
    sites = [f"layers.1.{part}" for part in parts if has(model, part)]
    run = model.run(tokens, read=sites, grad=True)
    found = torch.autograd.grad(metric(run.logits), [run[site] for site in sites])
    for site, gradient in zip(sites, found, strict=True):
        nudge = torch.zeros_like(run[site]).requires_grad_()
        nudged = model.run(tokens, edits=[digsite.apply(site, lambda x, nudge=nudge: x + nudge)], grad=True)
        (explicit,) = torch.autograd.grad(metric(nudged.logits), nudge)
        assert torch.isfinite(gradient).all()
        assert explicit.norm() > 1e-6, f"a gradient of nothing at {site} proves nothing"
        assert apart(gradient, explicit) <= 1e-4 * float(explicit.abs().max()), site


def test_gradients_of_heads_are_slices_of_gradients(model, rows):
    need(model, "attn.q_in", "attn.v_in", "attn.z")
    tokens, head = grid([rows[0]]), model.n_kv_heads - 1
    sites = [f"layers.1.attn.{part}" for part in ("q_in", "v_in", "z", "pattern")]
    run = model.run(tokens, read=sites, grad=True)
    whole = torch.autograd.grad(metric(run.logits), [run[site] for site in sites])
    run = model.run(tokens, read=[f"{site}[{head}]" for site in sites], grad=True)
    part = torch.autograd.grad(metric(run.logits), [run[f"{site}[{head}]"] for site in sites])
    for site, one, all_ in zip(sites, part, whole, strict=True):
        axis = 1 if site.endswith("pattern") else 2
        assert apart(one, all_.select(axis, head)) <= 1e-4 * float(all_.abs().max()), site


def test_the_gradient_of_resid_mid_is_that_of_attn_out(model, rows):
    need(model, "resid_mid")
    sites = ["layers.1.resid_mid", "layers.1.attn.out"]
    run = model.run(grid([rows[0]]), read=sites, grad=True)
    middle, out = torch.autograd.grad(metric(run.logits), [run[site] for site in sites])
    assert apart(middle, out) <= 1e-4 * float(out.abs().max())


def test_gradients_agree_with_finite_differences(model, rows):
    tokens = grid([rows[0]])
    parts = ("resid_pre", "attn.q_in", "attn.z", "resid_mid", "mlp.act")
    sites = [f"layers.1.{part}" for part in parts if has(model, part)]
    run = model.run(tokens, read=sites, grad=True)
    found = torch.autograd.grad(metric(run.logits), [run[site] for site in sites])
    for site, gradient in zip(sites, found, strict=True):
        direction = gradient / gradient.norm()
        step = 1e-2
        up, down = (
            metric(model.run(tokens, edits=[digsite.add(site, direction, scale=scale)]).logits)
            for scale in (step, -step)
        )
        slope = float(up - down) / (2 * step)
        assert slope == pytest.approx(float(gradient.norm()), rel=0.05), site


# -- padding and batches -------------------------------------------------------------------------------------------
def test_padding_on_either_side_changes_nothing(model, rows):
    """Logits, sites and edits at absolute positions are those of each row alone."""
    sites = [site for site in model.sites if site.layer in (0, 2) and "dst" not in site.kind.axes]
    edits = [digsite.scale("layers.1.resid_pre", 0.5, at=2), digsite.scale("layers.0.mlp.norm", 2.0, at=-1)]
    edits = edits if has(model, "mlp.norm", 0) else edits[:1]
    left, right = grid(rows, padding="left"), grid(rows, padding="right")
    assert torch.equal(right.padded_left().ids, left.ids)
    runs = [model.run(tokens, read=sites, edits=edits) for tokens in (left, right)]
    for row, ids in enumerate(rows):
        single = model.run(torch.tensor([ids]), read=sites, edits=edits)
        for tokens, run in zip((left, right), runs, strict=True):
            where = tokens.mask[row]
            assert apart(run.logits[row, where], single.logits[0]) <= 10 * EPS
            for site in sites:
                assert apart(run[site][row, where], single[site][0]) <= 10 * EPS * (1 + float(single[site].abs().max()))


def test_a_batch_is_its_rows(model, tokens):
    sites = [site for site in model.sites if site.layer in (1, None)]
    whole = model.run(tokens, read=sites)
    parts = model.run(tokens, read=sites, batch_size=1)
    assert apart(whole.logits, parts.logits, tokens.mask) <= EPS * (1 + float(whole.logits.abs().max()))
    for site in sites:
        a, b = whole[site], parts[site]
        if "dst" in site.kind.axes:
            a, b = a.transpose(1, 2), b.transpose(1, 2)
        if site.name == "attn.scores":
            a, b = a.clamp(min=-1e4), b.clamp(min=-1e4)
        mask = tokens.mask if a.shape[1] == tokens.mask.shape[1] else None
        assert a.shape == b.shape
        assert apart(a, b, mask) <= EPS * (1 + float(a[tokens.mask].abs().max())), site


# -- fused attention -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", slow_but(FEW, EVERY))
def test_fused_attention_serves_all_but_scores_and_pattern(name, tokens):
    hf = tiny(name)
    if not hf._supports_sdpa or getattr(hf.config.get_text_config(), "attn_logit_softcapping", None):
        with pytest.raises(Unsupported, match='attention="sdpa" is not possible'):
            wrap(hf, None, name=name, revision=None, attention="sdpa")
        return
    eager, fused = wrapped(hf), wrapped(hf, "sdpa")
    found = fused.verify(layers=[1])
    assert found.passed, found
    lost = {site.name for site in eager.sites} - {site.name for site in fused.sites}
    inside = {"attn.scores", "attn.pattern"} | ({"attn.q_rot", "attn.k_rot"} if eager.anatomy.arch.tapped else set())
    assert lost == (inside if eager.n_heads else set())
    if lost:
        with pytest.raises(NoSuchSite, match='load with attention="eager"'):
            fused.run(tokens, read=["layers.1.attn.pattern"])
    assert torch.equal(fused.run(tokens, read=fused.sites).logits, alone(fused, tokens, "sdpa"))
    if name != "falcon_sequential":  # transformers' own fused alibi differs from its eager alibi
        assert apart(fused.run(tokens).logits, alone(eager, tokens), tokens.mask) <= 1e-3
    assert hf.config._attn_implementation == "eager"
