"""The colours and typefaces of every figure and page, and the arithmetic that keeps text readable on them.

Colours mean the same everywhere: the control is grey, what we claim is amber, positive is vermilion, negative is blue,
zero is the paper. A figure is drawn once with the light colours; on a page each colour becomes a CSS variable, so that
light and dark follow the reader's system.
"""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Palette:
    """One set of colours by what they mean, each as `#rrggbb`."""

    paper: str
    card: str
    ink: str
    soft: str
    line: str
    null: str
    positive: str
    negative: str
    mark: str
    good: str
    bad: str

    def variables(self) -> str:
        """The palette as CSS custom properties, `--paper:#fbfaf7;...`."""
        return "".join(f"--{field.name}:{getattr(self, field.name)};" for field in fields(self))


LIGHT = Palette(
    paper="#fbfaf7",
    card="#ffffff",
    ink="#1c2330",
    soft="#5c6675",
    line="#e3e0d8",
    null="#b9bfc9",
    positive="#b2452c",
    negative="#2a6cab",
    mark="#d08a00",
    good="#2c7a4b",
    bad="#aa3333",
)
DARK = Palette(
    paper="#14171d",
    card="#1b2028",
    ink="#e8eaee",
    soft="#9aa5b4",
    line="#2c333e",
    null="#4d5664",
    positive="#f0876c",
    negative="#7db6ec",
    mark="#f0b44a",
    good="#6cc08b",
    bad="#ef8a8a",
)

OKABE_ITO = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
"""Categories without an order: eight colours that stay apart under every common colour blindness."""

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"

READABLE = 4.5
"""The least contrast of text against what is behind it (WCAG 2.2, level AA)."""


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


def blend(colour: str, paper: str, alpha: float) -> str:
    """The colour that is seen when `colour` lies over `paper` at this opacity."""
    mixed = (alpha * top + (1 - alpha) * below for top, below in zip(_channels(colour), _channels(paper), strict=True))
    return "#" + "".join(f"{round(255 * value):02x}" for value in mixed)


def contrast(first: str, second: str) -> float:
    """How far apart two colours are in lightness, from 1 (equal) to 21 (black on white).

    Source: WCAG 2.2, "contrast ratio" and "relative luminance".
    """

    def luminance(colour: str) -> float:
        linear = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in _channels(colour))
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dim, bright = sorted((luminance(first), luminance(second)))
    return (bright + 0.05) / (dim + 0.05)


def text_on(background: str, palette: Palette) -> str:
    """The text colour for a coloured ground: the ink or the paper where they are readable, else black or white."""
    choices = (palette.ink, palette.card, "#000000", "#ffffff")
    return next(choice for choice in choices if contrast(choice, background) >= READABLE)
