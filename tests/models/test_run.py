"""What a run gives back: which tensor an address is, at which positions, and nothing that was not asked for."""

import pytest
import torch

import digsite
from architectures import CONFIGS, randomised, tiny
from digsite._core.cost import measure
from digsite._core.errors import BadInput, NoSuchSite, SiteDidNotFire
from digsite.models.load import wrap
from digsite.models.tokens import grid
from digsite.sites import SITES

WIDE = ("gpt2", "bloom")  # four times the stream
ROWS = [[5, 6, 7, 8, 9], [11, 12, 13], [14, 15, 16, 17]]


def wrapped(name, attention="eager"):
    made = wrap(tiny(name), None, name=name, revision=None, attention=attention)
    made.verify(layers=[0])
    return made


@pytest.fixture(scope="module")
def model():
    return wrapped("llama")


@pytest.fixture(scope="module")
def tokens():
    return grid(ROWS, padding="left")


# -- addresses -----------------------------------------------------------------------------------------------------
def test_every_site_has_the_axes_that_the_table_says(tokens):
    for name in ("llama", "opt", "gpt2", "mixtral", "bloom"):
        model = wrapped(name)
        sizes = {"batch": 3, "pos": 5, "src": 5, "dst": 5, "1": 1, "head": 4, "d_model": 64, "vocab": 97}
        sizes |= {"kv_head": model.n_kv_heads, "d_head": model.d_head, "d_mlp": 256 if name in WIDE else 96}
        run = model.run(tokens, read=model.sites)
        for site in model.sites:
            assert run[site].shape == tuple(sizes[axis] for axis in SITES[site.name].axes), (name, site)


def test_wildcards_stack_layers_first(model, tokens):
    run = model.run(tokens, read=["layers.*.resid_post", "layers.1-2.attn.z", "embed"])
    assert run["layers.*.resid_post"].shape == (3, 3, 5, 64)
    assert torch.equal(run["layers.*.resid_post"][1], run["layers.1.resid_post"])
    assert torch.equal(run["layers.1-2.attn.z"][1], run["layers.2.attn.z"])
    assert run["layers.1-2.attn.z[3]"].shape == (2, 3, 5, 16)
    assert torch.equal(run["layers.2.attn.z[3]"], run["layers.2.attn.z"][:, :, 3])
    assert torch.equal(run["blocks.1.hook_resid_post"], run["layers.1.resid_post"])
    assert list(map(str, run.each("layers.1-2.attn.z"))) == ["layers.1.attn.z", "layers.2.attn.z"]
    assert len(run.each("layers.1.attn.z[*]")) == 4


def test_a_wildcard_over_one_layer_is_still_a_stack():
    config = CONFIGS["llama"]()
    config.num_hidden_layers = 1
    model = wrap(randomised(config), None, name="one", revision=None, attention="eager")
    run = model.run(grid(ROWS), read=["layers.*.resid_post"])
    assert run["layers.*.resid_post"].shape == (1, 3, 5, 64)
    assert run["layers.0-0.resid_post"].shape == (1, 3, 5, 64)
    assert run["layers.0.resid_post"].shape == (3, 5, 64)
    mixed = wrapped("qwen3_next")
    z = mixed.run(grid(ROWS), read=["layers.*.attn.z"])["layers.*.attn.z"]
    assert z.shape == (1, 3, 5, 4, 16), "one layer of three has heads"


def test_what_was_not_read_is_said(model, tokens):
    run = model.run(tokens, read=["layers.0.attn.z[1]"])
    assert run["layers.0.attn.z[1]"].shape == (3, 5, 16)
    with pytest.raises(NoSuchSite, match=r"did not read layers\.1\.mlp\.out") as caught:
        run["layers.1.mlp.out"]
    assert "layers.0.attn.z[1]" in str(caught.value)
    assert 'add it: model.run(tokens, read=["layers.1.mlp.out"])' in str(caught.value)
    for other in ("layers.0.attn.z", "layers.0.attn.z[2]"):
        with pytest.raises(NoSuchSite, match="did not read"):
            run[other]
    with pytest.raises(NoSuchSite, match="names several heads"):
        model.run(tokens, read=["layers.0.attn.z"])["layers.0.attn.z[*]"]
    assert repr(run) == "Run of 3 rows × 5 columns: layers.0.attn.z[1]"


def test_heads_of_patterns_and_inputs(model, tokens):
    whole = model.run(tokens, read=["layers.1.attn.pattern", "layers.1.attn.k_in", "layers.1.attn.result"])
    for site, head, axis in (("attn.pattern", 3, 1), ("attn.k_in", 1, 2), ("attn.result", 2, 2)):
        one = model.run(tokens, read=[f"layers.1.{site}[{head}]"])
        assert torch.equal(one[f"layers.1.{site}[{head}]"], whole[f"layers.1.{site}"].select(axis, head))
        assert torch.equal(whole[f"layers.1.{site}[{head}]"], whole[f"layers.1.{site}"].select(axis, head))


# -- positions, device, dtype --------------------------------------------------------------------------------------
@pytest.mark.parametrize("padding", ["left", "right"])
def test_positions_are_absolute(model, padding):
    tokens = grid(ROWS, padding=padding)
    sites = ["layers.1.resid_post", "layers.1.attn.z", "layers.1.attn.pattern", "layers.1.attn.q_in", "logits"]
    whole = model.run(tokens, read=sites)
    ends = [start + length - 1 for start, length in zip(tokens.starts, tokens.lengths, strict=True)]
    last, pair = (model.run(tokens, read=[*sites, "layers.0.attn.z[1]"], at=at) for at in (-1, [0, -1]))
    for row, (start, end) in enumerate(zip(tokens.starts, ends, strict=True)):
        for site in sites:
            full = whole[site][row].transpose(0, 1) if site.endswith("pattern") else whole[site][row]
            both = pair[site][row].transpose(0, 1) if site.endswith("pattern") else pair[site][row]
            assert torch.equal(last[site][row], full[end])
            assert torch.equal(both, full[[start, end]])
    assert last["layers.1.attn.pattern"].shape == (3, 4, 5)
    assert pair["layers.1.attn.pattern"].shape == (3, 4, 2, 5)
    assert last["layers.1.attn.z[2]"].shape == (3, 16)
    assert torch.equal(last["layers.1.attn.z[2]"], last["layers.1.attn.z"][:, 2])
    assert torch.equal(last["layers.1.attn.pattern[2]"], last["layers.1.attn.pattern"][:, 2])
    assert pair["layers.0.attn.z[1]"].shape == (3, 2, 16)
    each = model.run(tokens, read=sites, at=torch.tensor([4, 0, 2]))
    assert torch.equal(each["layers.1.resid_post"][:, 0][1], whole["layers.1.resid_post"][1, tokens.starts[1]])
    with pytest.raises(BadInput, match="another number of positions in different rows"):
        model.run(tokens, read=sites, at=slice(1, None))
    with pytest.raises(BadInput, match="outside row 1"):
        model.run(tokens, read=sites, at=4)


def test_what_is_recorded_can_be_smaller(model, tokens):
    run = model.run(tokens, read=["layers.1.resid_post"], dtype=torch.float16, to="cpu")
    assert run["layers.1.resid_post"].dtype == torch.float16
    assert run.logits.dtype == torch.float32, "the dtype is that of what is recorded, not of the run"
    torch.testing.assert_close(run.logits, model.run(tokens).logits, rtol=0, atol=0)


def test_what_is_recorded_is_nobody_elses(model, tokens):
    """Writing into a recorded tensor changes no later run, and a kept part holds no whole."""
    first = model.run(tokens, read=model.sites)
    before = first.logits.clone()
    for site in model.sites:
        first[site].clone().zero_()
    part = model.run(tokens, read=["layers.1.attn.z[0]"], at=-1)["layers.1.attn.z[0]"]
    assert part.untyped_storage().nbytes() == part.numel() * 4
    assert torch.equal(model.run(tokens).logits, before)


# -- ends of a pass ------------------------------------------------------------------------------------------------
def test_logits_on_request(model, tokens):
    whole = model.run(tokens).logits
    torch.testing.assert_close(model.run(tokens, logits=1).logits, whole[:, -1:])
    torch.testing.assert_close(model.run(tokens, logits=3).logits, whole[:, -3:])
    for wrong in (0, -1, True):
        with pytest.raises(BadInput, match=r"logits="):
            model.run(tokens, logits=wrong)
    for none in (
        model.run(tokens, read=["layers.0.resid_post"], logits=None),
        model.run(tokens, read=["layers.0.resid_post"], stop="layers.0.resid_post"),
    ):
        with pytest.raises(NoSuchSite, match="has no logits"):
            _ = none.logits
    with pytest.raises(BadInput, match="nothing to do"):
        model.run(tokens, logits=None)


def test_the_logits_are_a_site_of_all_columns(model, tokens):
    whole = model.run(tokens).logits
    run = model.run(tokens, read=["logits"], logits=1)
    assert torch.equal(run["logits"], whole)
    edited = model.run(tokens, edits=[digsite.scale("logits", 0.0, at=-1)], logits=2).logits
    assert not edited[:, -1].any()
    assert torch.equal(edited[:, 0], whole[:, -2])


def test_a_pass_ends_where_it_is_told(model, tokens):
    seen = []
    handle = model.anatomy.blocks[1].module.register_forward_hook(lambda *_: seen.append(1))
    try:
        model.run(tokens, read=["layers.0.attn.q"], logits=None)
        model.run(tokens, stop="layers.0.mlp.out")
        model.run(tokens, read=["layers.0.attn.k_in[1]", "layers.0.attn.pattern"], logits=None)
    finally:
        handle.remove()
    assert not seen, "the second block never ran"
    with pytest.raises(SiteDidNotFire, match=r"did not reach layers\.2\.resid_post"):
        model.run(tokens, read=["layers.2.resid_post"], stop="layers.1.resid_post")
    with pytest.raises(SiteDidNotFire, match=r"did not reach layers\.2\.mlp\.out"):
        model.run(tokens, read=["layers.0.resid_post"], logits=None, edits=[digsite.ablate("layers.2.mlp.out")])
    with pytest.raises(BadInput, match="names several sites"):
        model.run(tokens, stop="layers.*.resid_post")


# -- arguments that exclude each other -----------------------------------------------------------------------------
def test_gradients_keep_the_sites_themselves(model, tokens):
    for arguments in ({"at": 0}, {"to": "cpu"}, {"dtype": torch.float16}):
        with pytest.raises(BadInput, match="With grad=True the sites themselves are kept"):
            model.run(tokens, grad=True, **arguments)
    with pytest.raises(BadInput, match="Gradients need the whole batch in one pass"):
        model.run(tokens, grad=True, batch_size=2)


def test_gradients_are_never_silently_none(model, tokens):
    run = model.run(tokens, read=["layers.1.resid_post"])
    assert not run["layers.1.resid_post"].requires_grad
    run = model.run(tokens, read=["layers.*.resid_post", "layers.1.attn.z[2]", "embed"], grad=True)
    each = run.each("layers.*.resid_post")
    for value in (*each.values(), run["layers.1.attn.z[2]"], run["embed"]):
        (gradient,) = torch.autograd.grad(run.logits[:, -1].logsumexp(-1).sum(), value, retain_graph=True)
        assert gradient.abs().sum() > 0
    with torch.no_grad():
        inside = model.run(tokens, read=["embed"], grad=True)
    torch.autograd.grad(inside.logits.sum(), inside["embed"])


def test_the_cost_of_a_run_is_counted(model, tokens):
    with measure() as cost:
        model.run(tokens)
        model.run(tokens, batch_size=2)
    assert (cost.forwards, cost.rows) == (3, 6)


# -- models beside each other --------------------------------------------------------------------------------------
def test_two_models_of_one_config_do_not_disturb_each_other(tokens):
    import transformers

    config = CONFIGS["llama"]()
    first = randomised(config, seed=0)
    second = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    assert first.config is second.config, "transformers shares it, and the second model flipped it"
    one = wrap(first, None, name="one", revision=None, attention="eager")
    alone = one.plain(tokens)
    outside = second(tokens.ids).logits
    assert torch.equal(one.run(tokens, read=one.sites).logits, alone)
    assert torch.equal(second(tokens.ids).logits, outside)
    assert config._attn_implementation == "sdpa", "what the owner chose last"
    two = wrap(second, None, name="two", revision=None, attention="sdpa")
    assert torch.equal(two.run(tokens).logits, two.plain(tokens))
    assert torch.equal(one.run(tokens, read=["layers.1.attn.pattern"]).logits, alone)


def test_a_live_model_with_fused_attention_keeps_it_outside_runs(tokens):
    import transformers

    hf = transformers.AutoModelForCausalLM.from_config(CONFIGS["gpt2"](), attn_implementation="sdpa").eval()
    model = digsite.load(hf, verify=False)
    called = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        called.append(1)
        return fused(*args, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = counted
    try:
        before = hf(tokens.ids).logits
        outside, called[:] = len(called), []
        pattern = model.run(tokens, read=["layers.0.attn.pattern"])["layers.0.attn.pattern"]
        assert not called, "a run is eager, because it was loaded so"
        assert torch.equal(hf(tokens.ids).logits, before)
        assert len(called) == outside == 3
    finally:
        torch.nn.functional.scaled_dot_product_attention = fused
    torch.testing.assert_close(pattern.sum(-1), torch.ones(3, 4, 5))


@pytest.mark.parametrize("name", ["falcon", "gpt2_upcast"])
def test_attention_off_the_interface_follows_the_choice_too(name, tokens):
    """A live model that its owner set to fused attention is run eagerly where it was loaded eagerly."""
    hf = tiny(name)
    model = wrapped(name)
    reference = model.run(tokens).logits
    hf.config._attn_implementation_internal = "sdpa"
    try:
        run = model.run(tokens, read=["layers.1.attn.pattern", "layers.1.attn.scores"])
        assert hf.config._attn_implementation == "sdpa"
    finally:
        hf.config._attn_implementation_internal = "eager"
    assert torch.equal(run.logits, reference)


def test_a_function_of_an_edit_may_run_the_model(model, tokens):
    """A run inside a run: hooks of one are not those of the other."""
    inner = []

    def doubled(x):
        inner.append(model.run(tokens, read=["layers.0.resid_post"], edits=[digsite.ablate("layers.0.mlp.out")]))
        return x * 2

    run = model.run(tokens, read=["layers.0.resid_post"], edits=[digsite.apply("layers.0.resid_post", doubled)])
    alone = model.run(tokens, read=["layers.0.resid_post"], edits=[digsite.ablate("layers.0.mlp.out")])
    assert torch.equal(inner[0]["layers.0.resid_post"], alone["layers.0.resid_post"])
    torch.testing.assert_close(
        run["layers.0.resid_post"], 2 * model.run(tokens, read=["layers.0.resid_post"])["layers.0.resid_post"]
    )
