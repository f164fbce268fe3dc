"""Steering vectors are their formulas and act at the positions they name, whatever the padding, batch and KV cache."""

import pytest
import torch

import digsite
from digsite._core.errors import BadInput, ShapeMismatch
from digsite.directions.steering import FROM_LAST, AnswerPair, actadd, caa, difference, show
from digsite.models import untrained
from digsite.models.tokens import Turn, grid

SITE = "layers.1.resid_post"


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def pronouns(model):
    return digsite.tasks.gendered_pronoun(model, n=40)


def at_last(model, texts):
    """The last token's activation of each text by itself: the slow reference."""
    return torch.stack([model.run(model.tokens([text]), read=[SITE], logits=None)[SITE][0, -1] for text in texts])


# -- ActAdd ----------------------------------------------------------------------------------------------------------
def test_actadd_is_the_difference_at_each_position_and_acts_on_the_front_alone(model):
    found = actadd(model, "Mary gave the book", "John gave the book", SITE)
    rows = [
        model.run(model.tokens([text]), read=[SITE])[SITE][0] for text in ("Mary gave the book", "John gave the book")
    ]
    torch.testing.assert_close(found.vectors, rows[0] - rows[1])
    assert not found.vectors[0].any(), "both begin with the BOS"
    prompts = model.tokens(["Where is the key near the flowers", "Tom and Ben met at the store"], padding="left")
    plain = model.run(prompts, read=[SITE], logits=None)[SITE]
    new = model.run(prompts, read=[SITE], edits=[found.add(3.0)], logits=None)[SITE]
    for row in range(2):
        change = (new - plain)[row, prompts.mask[row]]
        torch.testing.assert_close(change[: len(found.vectors)], 3 * found.vectors, atol=1e-4, rtol=1e-4)
        assert not change[len(found.vectors) :].any(), "a reading at the same site behind the front is untouched"
    longest = model.run(prompts, read=[SITE], edits=[found.add(1.0, "norm")], logits=None)[SITE] - plain
    scale = found.scales[-1]
    assert scale is not None
    assert float(longest[prompts.mask].norm(dim=-1).max()) == pytest.approx(scale.norm, rel=1e-4)
    assert torch.equal(found.direction(-1).vector, found.vectors[-1])


def test_actadd_pads_with_a_named_token_or_refuses(model):
    with pytest.raises(ShapeMismatch, match=r"(?s)position by position.*tokens.*pad="):
        actadd(model, "Mary gave", "John gave the book", SITE)
    found = actadd(model, "Mary gave", "John gave the book", SITE, pad=".")
    assert found.plus[-2:] == (".", ".") and len(found.plus) == len(found.minus)
    with pytest.raises(BadInput, match="not one token"):
        actadd(model, "Mary gave", "John gave the book", SITE, pad=" the store")
    with pytest.raises(BadInput, match="do not differ"):
        actadd(model, "Mary gave", "Mary gave", SITE)
    with pytest.raises(BadInput, match="'sd' is no unit"):
        found.add(1.0, "sd")


def test_a_prompt_that_is_shorter_than_the_vector_is_refused(model):
    edit = actadd(model, "Mary gave the book", "John gave the book", SITE).add(1.0)
    with pytest.raises(BadInput, match="Position 2 is outside row 0"):
        model.run(model.tokens(["Tom"]), edits=[edit])


# -- CAA -------------------------------------------------------------------------------------------------------------
def test_caa_is_the_mean_difference_at_the_answer_token(model, pronouns):
    right = [prompt[0] for prompt in pronouns.right.texts]
    found = caa(model, pronouns, SITE)
    texts = [("".join(s[1:])).strip() for s in pronouns.clean.strings]
    with_, without = (
        at_last(model, [t + a[0] for t, a in zip(texts, side.texts, strict=True)])
        for side in (pronouns.right, pronouns.wrong)
    )
    groups = [torch.tensor([r == kind for r in right]) for kind in sorted(set(right))]
    wanted = torch.stack([(with_ - without)[group].mean(0) for group in groups]).mean(0)
    torch.testing.assert_close(found.vector, wanted, atol=1e-4, rtol=1e-4)
    assert "CAA over 40 pairs" in found.how and "its own prompts" in found.how


def test_what_belongs_to_the_letter_cancels_where_both_letters_match(model):
    """Nine pairs in which Mary matches and one in which John does: the plain mean is nearly Mary - John."""
    prompts = [
        f"The {thing} is from"
        for thing in ("book", "key", "ring", "ball", "lamp", "hat", "letter", "cake", "map", "coin")
    ]
    pairs = [AnswerPair(p, " Mary", " John") for p in prompts[:9]] + [AnswerPair(prompts[9], " John", " Mary")]
    letter = (at_last(model, [p + " Mary" for p in prompts]) - at_last(model, [p + " John" for p in prompts])).mean(0)
    found = caa(model, pairs, SITE)
    plain = torch.stack(
        [at_last(model, [p.prompt + p.matching])[0] - at_last(model, [p.prompt + p.other])[0] for p in pairs]
    ).mean(0)
    assert float(plain @ letter) > 0.7 * float(letter @ letter)
    assert abs(float(found.vector @ letter)) < 0.1 * float(letter @ letter)
    with pytest.raises(BadInput, match=r"(?s)always the same token.*confounded"):
        caa(model, pairs[:9], SITE)
    alone = caa(model, pairs[:9], SITE, confounded=True)
    assert float(alone.vector @ letter) > 0.7 * float(letter @ letter)


def test_answers_that_are_no_single_token_are_refused(model):
    with pytest.raises(BadInput, match="Each answer is one token after its prompt"):
        caa(model, [AnswerPair("Mary is", " the key", " John")], SITE)
    with pytest.raises(BadInput, match="one pair or more"):
        caa(model, [], SITE)


def test_from_the_last_token_on_includes_what_predicts_the_first_answer(model):
    """Masking the last prompt token leaves the first new token unsteered: the first logits must move."""
    prompts = model.tokens(["One day, Lily went to the park.", "Tom was sad because"])
    vector = 4 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    runs = {}
    for name, at in (("ours", FROM_LAST), ("late", slice(20, None)), ("all", None)):
        edits = [digsite.add(SITE, vector, at=at)]
        runs[name] = model.generate(prompts, max_new_tokens=3, edits=edits, logits=True, stop_at=None).logits
    plain = model.generate(prompts, max_new_tokens=3, logits=True, stop_at=None).logits
    assert (runs["ours"][:, 0] - plain[:, 0]).abs().max() > 0.1
    assert torch.equal(runs["late"][:, 0], plain[:, 0])
    single = model.run(model.tokens(["Tom was sad because"]), edits=[digsite.add(SITE, vector, at=-1)]).logits[0, -1]
    torch.testing.assert_close(runs["ours"][1, 0], single, atol=2e-4, rtol=1e-4)


# -- mean difference -------------------------------------------------------------------------------------------------
def test_difference_is_that_of_the_means_and_reads_zero_halfway(model):
    plus, minus = ["Mary was sad", "Lily went to the park"], ["Tom was sad", "Ben went to the store", "Sam was happy"]
    found = difference(model, model.tokens(plus), model.tokens(minus, padding="left"), SITE, name="female")
    means = at_last(model, plus).mean(0), at_last(model, minus).mean(0)
    torch.testing.assert_close(found.vector, means[0] - means[1], atol=1e-4, rtol=1e-4)
    assert float(found.read((means[0] + means[1]) / 2)) == pytest.approx(0, abs=1e-3)
    assert found.scale is not None and "its own prompts" in found.how


def test_several_positions_are_averaged_prompt_by_prompt(model):
    plus, minus = model.tokens(["Mary was sad", "Lily went to the big park"]), model.tokens(["Tom was happy"])
    found = difference(model, plus, minus, SITE, at=slice(1, None))
    each = [model.run(plus[row], read=[SITE])[SITE][0, 1:].mean(0) for row in range(2)]
    wanted = torch.stack(each).mean(0) - model.run(minus, read=[SITE])[SITE][0, 1:].mean(0)
    torch.testing.assert_close(found.vector, wanted, atol=1e-4, rtol=1e-4)


def test_each_prompt_may_have_its_own_position(model):
    plus, minus = (
        model.tokens(["Mary was sad", "One day, Lily was happy"], padding="left"),
        model.tokens(["Tom was sad"]),
    )
    found = difference(model, plus, minus, SITE, at=torch.tensor([1, 4]), minus_at=torch.tensor([1]))
    each = [model.run(plus[row], read=[SITE])[SITE][0, place] for row, place in ((0, 1), (1, 4))]
    wanted = torch.stack(each).mean(0) - model.run(minus, read=[SITE])[SITE][0, 1]
    torch.testing.assert_close(found.vector, wanted, atol=1e-4, rtol=1e-4)


def test_response_tokens_are_those_of_the_last_turn_of_the_assistant(model):
    def spoken(*answers):
        start = model.tokens(["Where is Mary"]).ids[0].tolist()
        ends = [model.tokens([a], special=False).ids[0].tolist() for a in answers]
        turns = tuple((Turn("user", 0, len(start)), Turn("assistant", len(start), len(start) + len(e))) for e in ends)
        return grid([start + end for end in ends], padding="left", turns=turns, tokenizer=model.tokenizer), len(start)

    (plus, start), (minus, _) = spoken("Mary was happy", "Mary was so happy"), spoken("Mary was sad", "John was sad")
    found = difference(model, plus, minus, SITE, at="response")
    means = []
    for side in (plus, minus):
        each = [model.run(side[row], read=[SITE])[SITE][0, start:].mean(0) for row in range(2)]
        means.append(torch.stack(each).mean(0))
    torch.testing.assert_close(found.vector, means[0] - means[1], atol=1e-4, rtol=1e-4)
    with pytest.raises(BadInput, match="no turn of an assistant"):
        difference(model, model.tokens(["Mary"]), minus, SITE, at="response")
    with pytest.raises(BadInput, match="at='respons' names no positions"):
        difference(model, plus, minus, SITE, at="respons")


def test_the_scale_is_of_neutral_text_and_leaves_out_each_rows_first_token(model):
    text = model.tokens([[5, 6, 7, 8], [9, 10, 11, 12]])  # no BOS: the first token is the sink
    found = difference(model, model.tokens(["Mary was sad"]), model.tokens(["Tom was sad"]), SITE, text=text)
    x = model.run(text, read=[SITE])[SITE][:, 1:].reshape(-1, model.d_model)
    assert found.scale is not None and found.scale.rows == 6
    assert found.scale.norm == pytest.approx(float(x.norm(dim=-1).mean()), rel=1e-5)
    assert text.fingerprint in found.how


def test_directions_of_another_model_or_width_are_refused(model):
    found = difference(model, model.tokens(["Mary was sad"]), model.tokens(["Tom was sad"]), SITE)
    with pytest.raises(BadInput, match="whose weights are not those"):
        found.check(untrained(model, seed=1))
    with pytest.raises(BadInput, match="names several sites"):
        difference(model, model.tokens(["Mary"]), model.tokens(["Tom"]), "layers.*.resid_post")


# -- what is read and written ----------------------------------------------------------------------------------------
def test_show_paints_what_is_read_and_written(model):
    tokens = model.tokens(["Mary was sad", "Tom went to the park"], padding="left")
    lines = show(tokens, -1).splitlines()
    assert lines == ["<bos> ·Mary ·was [·sad]", "<bos> ·Tom ·went ·to ·the [·park]"]
    assert show(tokens, slice(2, None)).splitlines()[0] == "<bos> ·Mary [·was] [·sad] […]"
    assert show(tokens, [1, 2], rows=1).endswith("and 1 more rows")
    with pytest.raises(BadInput, match="outside row 0"):
        show(tokens, 5)


@pytest.mark.parametrize("at", [-1, 2, [1, -1], slice(2, 4), slice(1, None), None])
def test_at_reads_and_writes_the_same_cells(model, at):
    """What `at` reads is what it writes, alone and in a left-padded batch."""
    tokens = model.tokens(["Mary was so sad", "Tom went to the big park"], padding="left")
    site = "layers.0.resid_pre"
    marked = model.run(
        tokens, read=[site], edits=[digsite.add(site, torch.full((model.d_model,), 7.0), at=at)], logits=None
    )
    changed = (marked[site] - model.run(tokens, read=[site], logits=None)[site]).abs().sum(-1) > 1
    places = tokens.places(at)
    wanted = torch.zeros_like(tokens.mask)
    wanted[places.rows, places.columns] = True
    assert torch.equal(changed & tokens.mask, wanted)
