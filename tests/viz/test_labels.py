"""Labels never lie on each other, whatever they are and however many."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from digsite.viz.axes import Axis, scale_for, ticks_along
from digsite.viz.labels import spread, stack, text_width, wrap

WORDS = st.text("abcdefghij·⏎⟨⟩XW ", min_size=1, max_size=30)


@settings(deadline=None)
@given(st.lists(st.floats(-50, 250), min_size=1, max_size=12), st.floats(1, 30))
def test_spread_labels_keep_their_order_and_their_distance(wanted, gap):
    placed = spread(wanted, gap, 0.0, 200.0)
    room = min(gap, 200 / max(1, len(wanted) - 1))
    ordered = [placed[index] for index in sorted(range(len(wanted)), key=lambda index: wanted[index])]
    assert all(-1e-9 <= place <= 200 + 1e-9 for place in placed)
    assert all(after - before >= room - 1e-6 for before, after in itertools.pairwise(ordered))


def test_labels_with_room_stay_where_they_are():
    assert spread([10.0, 60.0, 35.0], 15.0, 0.0, 100.0) == [10, 60, 35]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted).map(tuple), max_size=8))
def test_no_two_spans_of_a_shelf_touch(spans):
    shelves = stack(spans, gap=4.0)
    for at, (left, right) in enumerate(spans):
        for other in range(at):
            start, end = spans[other]
            assert shelves[at] != shelves[other] or right + 4 <= start or left - 4 >= end


@settings(deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=40), st.floats(15, 60))
def test_tokens_on_an_axis_never_touch(tokens, room):
    ticks = ticks_along(Axis("token", tuple(tokens), tokens=True), room)
    assert ticks.shown == tuple(range(len(tokens)))
    if ticks.angle == 0:
        assert max(text_width(text, mono=True) for text in ticks.texts) < room
    else:  # the distance between two tilted lines of text is more than the height of one
        assert room * {45: 0.7071, 90: 1.0}[ticks.angle] >= 11


@settings(deadline=None)
@given(st.integers(2, 200), st.floats(3, 60), st.booleans())
def test_numbers_on_an_axis_never_touch_and_are_never_tilted(count, room, has_word):
    labels = tuple(str(index) for index in range(count))
    ticks = ticks_along(Axis("layer", ("embed", *labels) if has_word else labels), room)
    ends = [
        (room * index - text_width(text) / 2, room * index + text_width(text) / 2)
        for index, text in zip(ticks.shown, ticks.texts, strict=True)
    ]
    assert ticks.angle == 0 and ticks.shown[0] == 0
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(ends))


def test_a_number_carries_its_word_where_there_is_room():
    axis = Axis("head", ("0", "1", "2"))
    assert ticks_along(axis, 60.0).texts == ("head 0", "head 1", "head 2") and not ticks_along(axis, 60.0).name
    assert ticks_along(axis, 20.0).texts == ("0", "1", "2") and ticks_along(axis, 20.0).name == "head"


def test_words_and_tokens_need_no_name_for_what_they_are():
    assert not ticks_along(Axis("place", ("S1", "IO", "answer")), 60.0).name
    assert not ticks_along(Axis("token", ("1", "2"), tokens=True), 60.0).name


def test_letters_that_the_drawing_font_lacks_are_given_their_full_width():
    assert text_width("日本語", 10.0) == 30
    assert text_width("a日", 10.0) == text_width("a", 10.0) + 10


def test_lines_are_broken_at_spaces_and_long_words_stay_whole():
    lines = wrap("Share of the logit difference that each head restores", 120.0)
    assert " ".join(lines) == "Share of the logit difference that each head restores" and len(lines) > 1
    assert all(text_width(line) <= 120 for line in lines)
    assert wrap("layers.10.attn.result.and.so.on", 20.0) == ["layers.10.attn.result.and.so.on"]


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), st.sampled_from(["logits", "fraction"]))
def test_a_scale_holds_every_value_and_its_steps_differ(values, unit):
    scale = scale_for(values, unit=unit)
    assert scale.low <= min(values) and max(values) <= scale.high
    assert len(set(scale.labels)) == len(scale.steps) >= 2
    assert all(scale.low - 1e-6 <= step <= scale.high + 1e-6 for step in scale.steps)


def test_natural_ends_are_kept_unless_a_value_lies_beyond():
    assert scale_for([0.3], unit="fraction", at_least=(0.0, 1.0)).labels == ("0 %", "25 %", "50 %", "75 %", "100 %")
    assert scale_for([1.3], unit="fraction", at_least=(0.0, 1.0)).high >= 1.3
    assert scale_for([float("nan")], unit="logits").steps
