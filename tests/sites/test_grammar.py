import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digsite._core.errors import DigsiteError, NoSuchSite
from digsite.sites import ALL, SITES, Range, Site

NUMBER = st.integers(0, 30)
INDEX = NUMBER | st.just(ALL) | st.tuples(NUMBER, NUMBER).map(lambda pair: Range(min(pair), max(pair)))


@st.composite
def any_site(draw: st.DrawFn) -> Site:
    kind = draw(st.sampled_from(list(SITES.values())))
    layer = draw(INDEX) if kind.per_layer else None
    head = draw(INDEX | st.none()) if kind.head_axis is not None else None
    return Site(kind.name, layer, head)


@settings(deadline=None)
@given(any_site())
def test_an_address_is_read_back_as_it_was_written(site):
    assert Site.parse(str(site)) == site
    assert str(Site.parse(str(site))) == str(site)


@settings(deadline=None)
@given(st.text() | st.from_regex(r"(layers|blocks)\.[0-9*-]*\.[a-z_.]*(\[[0-9*-]*\])?"))
def test_text_is_an_address_or_an_error_that_names_it(text):
    try:
        site = Site.parse(text)
    except NoSuchSite as error:
        assert str(error)
    else:
        assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("layers.5.attn.z[3]", Site("attn.z", 5, 3)),
        ("layers.4-8.resid_post", Site("resid_post", Range(4, 8))),
        ("layers.*.attn.pattern", Site("attn.pattern", ALL)),
        ("layers.*.attn.z[*]", Site("attn.z", ALL, ALL)),
        ("layers.3.attn.q[0-3]", Site("attn.q", 3, Range(0, 3))),
        ("layers.0.mlp.norm.scale", Site("mlp.norm.scale", 0)),
        ("embed", Site("embed")),
        ("final.norm.scale", Site("final.norm.scale")),
        (" logits ", Site("logits")),
    ],
)
def test_the_grammar_by_example(text, site):
    assert Site.parse(text) == site


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "layers.5.attn.zz",
            r"There is no site 'layers\.5\.attn\.zz'\.\nPossible: did you mean attn\.z\? attn\.norm, ",
        ),
        ("layers.5.resid_pots", r"did you mean resid_post\?"),
        (
            "resid_post",
            r"in every layer, and no layer was named\.\nDo: Write layers\.0\.resid_post for one layer or layers\.\*",
        ),
        ("layers.3.logits", r"logits is not inside a layer\.\nFound: layers\.3\.logits\.\nDo: Write logits\."),
        (
            "layers.3.resid_post[2]",
            r"resid_post has no heads\.\nFound: axes batch pos d_model\.\nPossible: attn\.q_in, ",
        ),
        ("layers.8-4.attn.z", r"cannot go from 8 to 4\.\nPossible: 0 <= first <= last"),
        ("layers.x.attn.z", r"'layers\.x\.attn\.z' is not an address\.\nPossible: layers\.5\.attn\.z\[3\]"),
        ("layers.-1.resid_post", r"is not an address.*\n.*\nDo: Write layers\.<layer>\.<name>"),
        ("layers.05.resid_post", "is not an address"),
        ("layers.٣.resid_post", "is not an address"),
        ("layers.5.attn.z[]", "is not an address"),
        ("layers." + "9" * 5000 + ".resid_post", "is not an address"),
        ("", "'' is not an address"),
        (
            "blocks.5.attn.hook_zz",
            r"not a TransformerLens name that digsite knows\.\nPossible: did you mean attn\.hook_z\? ",
        ),
        ("blocks.5.hook_embed", "embed is not inside a layer"),
        ("hook_resid_pre", r"no layer was named.\nDo: Write layers\.0\.resid_pre"),
        ("blocks.5.mlp.hook_pre_linear", r"gated MLP than elsewhere\.\nDo: Write layers\.<layer>\.mlp\.gate or "),
    ],
)
def test_what_is_no_address_says_why(text, message):
    with pytest.raises(NoSuchSite, match=message) as caught:
        Site.parse(text)
    assert isinstance(caught.value, DigsiteError) and isinstance(caught.value, KeyError)


def test_a_site_that_is_built_by_hand_is_checked_too():
    with pytest.raises(NoSuchSite, match=r"no site 'attn\.y'"):
        Site("attn.y", 0)
    with pytest.raises(NoSuchSite, match=r"no layer -1 in resid_pre\.\nDo: Count from 0"):
        Site("resid_pre", -1)
    with pytest.raises(NoSuchSite, match="cannot go from 2 to None"):
        Range(2, None)


def test_expansion_goes_layer_by_layer_and_head_by_head():
    heads = {"head": 4, "kv_head": 2}
    assert [str(site) for site in Site.parse("layers.1-2.attn.z[2-3]").expand(3, heads)] == [
        "layers.1.attn.z[2]",
        "layers.1.attn.z[3]",
        "layers.2.attn.z[2]",
        "layers.2.attn.z[3]",
    ]
    assert len(Site.parse("layers.*.attn.q[*]").expand(3, heads)) == 12
    assert len(Site.parse("layers.*.attn.k[*]").expand(3, heads)) == 6
    assert Site.parse("layers.*.attn.z").expand(2, heads) == [Site("attn.z", 0), Site("attn.z", 1)]
    assert Site.parse("final.norm").expand(2, heads) == [Site("final.norm")]


@settings(deadline=None)
@given(any_site())
def test_expansion_is_concrete_and_inside_the_model(site):
    sites = site.expand(31, {"head": 31, "kv_head": 31})
    assert sites and len(set(sites)) == len(sites)
    assert all(one.is_concrete and one.name == site.name for one in sites)
    assert (sites == [site]) == site.is_concrete


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers.12.attn.z", r"asks for layer 12\.\nFound: a model with 12 layers\.\nPossible: layer 0 to 11\."),
        ("layers.10-12.resid_pre", r"asks for layer 10-12\.\nFound: a model with 12 layers"),
        ("layers.0.attn.q[8]", r"asks for head 8\.\nFound: a model with 8 heads\.\nPossible: head 0 to 7\."),
        (
            "layers.0.attn.k[1]",
            r"key/value head 1\.\nFound: a model with 1 key/value head\.\nPossible: key/value head 0\.",
        ),
    ],
)
def test_what_is_out_of_range_says_the_range(text, message):
    with pytest.raises(NoSuchSite, match=message):
        Site.parse(text).expand(12, {"head": 8, "kv_head": 1})


def test_every_axis_that_counts_heads_is_found():
    assert SITES["attn.pattern"].head_axis == 1
    assert SITES["attn.z"].head_axis == SITES["attn.k"].head_axis == 2
    assert SITES["resid_pre"].head_axis is None
    keyed = [name for name, kind in SITES.items() if "kv_head" in kind.axes]
    assert keyed == ["attn.k_in", "attn.v_in", "attn.k", "attn.v", "attn.k_rot"]
