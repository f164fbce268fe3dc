import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digsite._core.errors import NoSuchSite
from digsite.sites import SITES, Site, from_transformer_lens, to_transformer_lens

# Written out by hand from TransformerLens' documentation of its hook points, so that the table is checked against
# something that is not the table.
NAMES = {
    "blocks.5.hook_resid_pre": "layers.5.resid_pre",
    "blocks.5.hook_resid_mid": "layers.5.resid_mid",
    "blocks.5.hook_resid_post": "layers.5.resid_post",
    "blocks.5.ln1.hook_normalized": "layers.5.attn.norm",
    "blocks.5.ln1.hook_scale": "layers.5.attn.norm.scale",
    "blocks.5.hook_q_input": "layers.5.attn.q_in",
    "blocks.5.hook_k_input": "layers.5.attn.k_in",
    "blocks.5.hook_v_input": "layers.5.attn.v_in",
    "blocks.5.attn.hook_q": "layers.5.attn.q",
    "blocks.5.attn.hook_k": "layers.5.attn.k",
    "blocks.5.attn.hook_v": "layers.5.attn.v",
    "blocks.5.attn.hook_rot_q": "layers.5.attn.q_rot",
    "blocks.5.attn.hook_rot_k": "layers.5.attn.k_rot",
    "blocks.5.attn.hook_attn_scores": "layers.5.attn.scores",
    "blocks.5.attn.hook_pattern": "layers.5.attn.pattern",
    "blocks.5.attn.hook_z": "layers.5.attn.z",
    "blocks.5.attn.hook_result": "layers.5.attn.result",
    "blocks.5.hook_attn_out": "layers.5.attn.out",
    "blocks.5.hook_mlp_in": "layers.5.mlp.in",
    "blocks.5.ln2.hook_normalized": "layers.5.mlp.norm",
    "blocks.5.ln2.hook_scale": "layers.5.mlp.norm.scale",
    "blocks.5.mlp.hook_pre": "layers.5.mlp.up",
    "blocks.5.mlp.hook_post": "layers.5.mlp.act",
    "blocks.5.hook_mlp_out": "layers.5.mlp.out",
    "hook_embed": "embed",
    "hook_pos_embed": "pos_embed",
    "ln_final.hook_normalized": "final.norm",
    "ln_final.hook_scale": "final.norm.scale",
}


@pytest.mark.parametrize("theirs", NAMES)
def test_names_translate_both_ways(theirs):
    site = Site.parse(NAMES[theirs])
    assert Site.parse(theirs, gated=False) == from_transformer_lens(theirs, gated=False) == site
    assert to_transformer_lens(site, gated=False) == theirs


def test_the_names_cover_all_sites_but_two():
    assert {Site.parse(ours).name for ours in NAMES.values()} == set(SITES) - {"mlp.gate", "logits"}


def test_in_a_gated_mlp_hook_pre_is_the_gate():
    assert from_transformer_lens("blocks.2.mlp.hook_pre", gated=True) == Site("mlp.gate", 2)
    assert from_transformer_lens("blocks.2.mlp.hook_pre_linear", gated=True) == Site("mlp.up", 2)
    assert to_transformer_lens(Site("mlp.gate", 2), gated=True) == "blocks.2.mlp.hook_pre"
    assert to_transformer_lens(Site("mlp.up", 2), gated=True) == "blocks.2.mlp.hook_pre_linear"


def test_without_a_model_a_name_that_could_be_two_sites_is_refused():
    for name in ("blocks.2.mlp.hook_pre", "blocks.2.mlp.hook_pre_linear"):
        with pytest.raises(
            NoSuchSite, match=r"another site in a gated MLP than elsewhere\.\nDo: Write .*mlp\.gate or "
        ):
            Site.parse(name)
    for name in ("mlp.gate", "mlp.up"):
        with pytest.raises(
            NoSuchSite, match=rf"TransformerLens has no name for layers\.2\.{name}.*unless gated is said"
        ):
            to_transformer_lens(Site(name, 2))
    assert Site.parse("blocks.2.mlp.hook_post") == Site("mlp.act", 2)


@settings(deadline=None)
@given(st.sampled_from(list(SITES.values())), st.integers(0, 99), st.booleans())
def test_translation_there_and_back_is_the_site(kind, layer, gated):
    site = Site(kind.name, layer if kind.per_layer else None)
    if kind.name == "logits" or (kind.name == "mlp.gate" and not gated):
        with pytest.raises(NoSuchSite, match=f"TransformerLens has no name for {site}"):
            to_transformer_lens(site, gated=gated)
    else:
        assert from_transformer_lens(to_transformer_lens(site, gated=gated), gated=gated) == site


def test_what_their_names_cannot_say_is_refused():
    for text in ("layers.5.attn.z[3]", "layers.*.attn.z", "layers.1-2.resid_pre"):
        with pytest.raises(NoSuchSite, match=r"\nDo: Name one layer and all its heads, then index the tensor"):
            to_transformer_lens(Site.parse(text))
    with pytest.raises(NoSuchSite, match=r"'layers\.5\.attn\.z' is not a TransformerLens name"):
        from_transformer_lens("layers.5.attn.z")


def test_their_names_take_heads_and_wildcards_too():
    assert Site.parse("blocks.*.attn.hook_z[3]") == Site.parse("layers.*.attn.z[3]")
