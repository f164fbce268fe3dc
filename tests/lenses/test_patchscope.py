"""Patchscopes: a vector put back changes nothing, a cache and padding change nothing, and controls are there."""

import sys

import pytest
import torch

import digsite
from architectures import tiny
from digsite._core.errors import BadInput, NotFinite, ShapeMismatch
from digsite.lenses import Patchscope, identity_prompt, patchscope, self_ie
from digsite.models.load import wrap
from digsite.models.tokens import Tokens, grid, one_token
from digsite.tasks.words import CAPITALS

SITE = "layers.0.resid_pre"
PROMPT = "The capital of China is"


def untrained(name):
    return wrap(tiny(name), None, name=name, revision=None, attention="eager")


@pytest.fixture(scope="module")
def world():
    return digsite.load("digsite/tinyworld")


@pytest.fixture(scope="module")
def countries(world):
    """The stream of each country after the first layer, and its capital."""
    tokens = world.tokens([f"The capital of {country} is" for country in CAPITALS])
    vectors = world.run(tokens, read=["layers.0.resid_post"], at=4)["layers.0.resid_post"]
    return vectors, [one_token(world.tokenizer, f" {capital}") for capital in CAPITALS.values()]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mpt"])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_vector_put_back_where_it_was_changes_nothing(name, layer):
    model, target = untrained(name), grid([[5, 9, 7, 30, 4]])
    site = f"layers.{layer}.resid_post"
    own = model.run(target, read=[site], at=2)[site]
    found = patchscope(model, own, site=site, prompt=target, at=2, top=97, new=4)
    logp = model.run(target).logits[0, -1].log_softmax(-1)
    torch.testing.assert_close(found.likely_prob[0, 0], logp.exp().sort(descending=True).values, rtol=1e-4, atol=1e-6)
    assert float(found.moved.abs().max()) < 1e-5
    assert found.texts[0][0] == " ".join(map(str, model.generate(target, max_new_tokens=4).generated[0]))
    torch.testing.assert_close(found.prob, found.control[3])  # nothing put in


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_with_a_cache_and_padded_on_the_left_as_without(name):
    """What is written must be what one gets by running the whole row anew at every step."""
    model, ids = untrained(name), [5, 9, 7, 30, 4]
    site, vectors = "layers.1.resid_post", 3 * torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    pad = torch.tensor([[8, 8, *ids]])
    left = Tokens(pad, torch.tensor([[False, False] + [True] * 5]))
    plain, padded = (
        patchscope(model, vectors, site=site, prompt=one, at=[1, 3], scales=(1.0, 2.0), new=4, top=97)
        for one in (grid([ids]), left)
    )
    torch.testing.assert_close(padded.prob, plain.prob, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(padded.control, plain.control, rtol=1e-3, atol=1e-5)
    assert padded.texts == plain.texts and padded.places == plain.places == (1, 3)
    for row in range(3):
        for at, scale in enumerate((1.0, 2.0)):
            written = list(ids)
            for _ in range(4):
                edit = digsite.replace(site, (scale * vectors[row])[None, None], at=[1, 3])
                written.append(int(model.run(torch.tensor([written]), edits=[edit]).logits[0, -1].argmax()))
            assert plain.texts[row][at] == " ".join(map(str, written[5:]))


def test_batches_do_not_matter(monkeypatch):
    model, vectors = untrained("llama"), torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    asked = {"site": SITE, "prompt": grid([[5, 9, 7]]), "at": 1, "new": 2}
    whole = patchscope(model, vectors, **asked)
    monkeypatch.setattr(sys.modules["digsite.lenses.patchscope"], "BATCH", 2)  # the function has the module's name
    some = patchscope(model, vectors, **asked)
    torch.testing.assert_close(some.prob, whole.prob, rtol=1e-4, atol=1e-6)
    assert some.texts == whole.texts


def test_half_a_vector_is_half_of_both():
    model, target = untrained("llama"), grid([[5, 9, 7, 30]])
    vectors = torch.randn(1, 64, generator=torch.Generator().manual_seed(3))
    own = model.run(target, read=[SITE], at=1)[SITE]
    half = patchscope(model, vectors, site=SITE, prompt=target, at=1, mix=0.25)
    by_hand = patchscope(model, 0.25 * vectors + 0.75 * own, site=SITE, prompt=target, at=1)
    torch.testing.assert_close(half.likely_prob, by_hand.likely_prob, rtol=1e-4, atol=1e-6)


def test_tinyworld_says_the_capital_of_a_country_that_it_only_sees_as_a_vector(world, countries):
    vectors, capitals = countries
    found = patchscope(world, vectors, site=SITE, prompt=PROMPT, at=4, scales=(0.5, 1.0, 2.0), wanted=capitals)
    frame = found.to_frame()
    at = frame.row(found.best, named=True)
    assert at["low"] > 0.5 > 0.3 > max(at[name] for name in found.controls)
    assert at["on top"] > 0.6 and "no more than" not in found.verdict
    assert found.readings().height == 3 * len(capitals)


def test_where_the_model_has_already_read_the_country_the_controls_say_so(world, countries):
    """tinyworld reads the country in its first layer; put in later, a vector is not seen, nor is chance."""
    vectors, capitals = countries
    found = patchscope(world, vectors, site="layers.1.resid_post", prompt=PROMPT, at=4, wanted=capitals)
    assert float(found.moved.max()) < 0.05
    assert "that is no more than random and empty and mean and nothing put in" in found.verdict


def test_self_ie_writes_from_every_placeholder(world, countries, tmp_path):
    vectors, _ = countries
    found = self_ie(
        world, vectors[:2], site=SITE, instruction="The capital of China is", placeholder="China", new=2
    )  # fmt: skip
    assert found.places == (4,) and len(found.texts) == 2 and all(text for (text,) in found.texts)
    back = Patchscope.load(found.save(tmp_path / "scope"))
    assert back.texts == found.texts and back.verdict == found.verdict
    with pytest.raises(BadInput, match="no placeholder"):
        self_ie(world, vectors, site=SITE, instruction="The capital is", placeholder="China")


def test_the_identity_prompt_is_made_of_known_words(world):
    prompt, place = identity_prompt(world)
    tokens = world.tokens([prompt])
    assert world.tokenizer.unk_token_id not in tokens.ids.flatten().tolist()
    assert tokens.strings[0][place].strip() == prompt.split()[-1].rstrip(":")
    with pytest.raises(BadInput, match="no tokenizer"):
        identity_prompt(untrained("llama"))


BAD = [
    ({"vectors": torch.zeros(2, 63)}, ShapeMismatch, "as wide as the stream"),
    ({"vectors": torch.full((1, 64), torch.nan)}, NotFinite, "finite"),
    ({"vectors": torch.zeros(0, 64)}, BadInput, "0 vectors"),
    ({"scales": ()}, BadInput, "0 scales"),
    ({"wanted": [1, 2, 3]}, BadInput, "3 wanted"),
    ({"site": "layers.0.attn.z"}, BadInput, "not a place of the stream"),
    ({"site": "layers.*.resid_pre"}, BadInput, "not a place of the stream"),
    ({"at": 9}, BadInput, "outside row 0"),
    ({"at": None}, BadInput, "the positions of it that receive"),
    ({"prompt": grid([[1, 2], [3, 4]])}, BadInput, "2 prompts"),
]


@pytest.mark.parametrize(("wrong", "kind", "said"), BAD, ids=[said for *_, said in BAD])
def test_bad_input_says_what_is_possible(wrong, kind, said):
    asked = {"vectors": torch.ones(2, 64), "site": SITE, "prompt": grid([[5, 9, 7]]), "at": 1} | wrong
    with pytest.raises(kind, match=said):
        patchscope(untrained("llama"), asked.pop("vectors"), **asked)
