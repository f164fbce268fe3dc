"""Text can be read on everything it is written on, in both themes."""

import pytest

from digsite.viz.theme import DARK, LIGHT, OKABE_ITO, READABLE, blend, contrast, text_on


def test_contrast_is_the_ratio_of_the_guideline():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert contrast("#ffffff", "#777777") == contrast("#777777", "#ffffff")


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "soft", "good", "bad"])
@pytest.mark.parametrize("ground", ["paper", "card"])
def test_every_colour_of_words_can_be_read(palette, text, ground):
    assert contrast(getattr(palette, text), getattr(palette, ground)) >= READABLE


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("side", ["positive", "negative"])
def test_the_number_in_a_cell_can_be_read_at_every_strength(palette, side):
    for step in range(101):
        ground = blend(getattr(palette, side), palette.card, step / 100)
        assert contrast(text_on(ground, palette), ground) >= READABLE


def test_a_blend_goes_from_the_paper_to_the_colour():
    assert blend("#b2452c", "#ffffff", 0.0) == "#ffffff"
    assert blend("#b2452c", "#ffffff", 1.0) == "#b2452c"
    assert blend("#000000", "#ffffff", 0.5) == "#808080"


def test_colours_of_one_theme_differ():
    for palette in (LIGHT, DARK):
        assert len({part for part in palette.variables().split(";") if part}) == 11
    assert len(set(OKABE_ITO)) == 8
