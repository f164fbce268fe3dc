"""The sheet a figure is drawn on: matplotlib measured in pixels, with hover texts, and no global state.

One pixel is one point of matplotlib and one CSS pixel on a page, so that an 11 pt label is 11 px for the reader.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import FancyBboxPatch, Rectangle

from digsite.viz.labels import SIZE, wrap
from digsite.viz.theme import LIGHT

SETTINGS = {
    "font.family": ["DejaVu Sans"],
    "font.size": SIZE,
    "text.parse_math": False,  # a token may be "$"
    "text.color": LIGHT.ink,
    "figure.dpi": 72,
    "savefig.dpi": 72,
    "svg.fonttype": "none",
    "svg.hashsalt": "digsite",
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.8,
    "axes.facecolor": "none",
    "axes.edgecolor": LIGHT.line,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
}

MONO = "DejaVu Sans Mono"


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw and save with our settings alone, whatever style the notebook has set; it is put back afterwards."""
    with matplotlib.style.context(["default", SETTINGS]), warnings.catch_warnings():
        # A token in a script that the drawing font lacks is still right in the SVG, where the browser picks the font.
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        yield


Pixels = float | int
"""A length or place on the sheet."""

PAD = 10
"""Air around what is drawn, in pixels; a page, which has its own, crops it."""


class Canvas:
    """A sheet of `width` by `height` pixels with its origin at the top left, and a little air around it.

    Attributes:
        drawing: The matplotlib figure, free to be changed before saving.
        marks: The hover text of each mark by the id of its artist.
        title_height: Pixels at the top that the title takes.
        dark: The colour in the dark theme for each text that lies on a coloured ground.
    """

    def __init__(self, width: Pixels, height: Pixels):
        self.width = math.ceil(width)
        self.height = math.ceil(height)
        self._sheet = (self.width + 2 * PAD, self.height + 2 * PAD)
        self.drawing = Drawing(figsize=(self._sheet[0] / 72, self._sheet[1] / 72), dpi=72, facecolor=LIGHT.card)
        self.marks: dict[str, str] = {}
        self.dark: dict[str, str] = {}
        self.title_height = 0.0

    def plot(
        self,
        left: Pixels,
        top: Pixels,
        width: Pixels,
        height: Pixels,
        *,
        x: tuple[Pixels, Pixels] | None = None,
        y: tuple[Pixels, Pixels] | None = None,
    ) -> Axes:
        """Bare axes at this place; without ranges they count pixels, downwards, like the sheet."""
        foot = 1 - (PAD + top + height) / self._sheet[1]
        axes = self.drawing.add_axes(
            ((PAD + left) / self._sheet[0], foot, width / self._sheet[0], height / self._sheet[1])
        )
        axes.set_xlim(*(x or (0, width)))
        axes.set_ylim(*(y or (height, 0)))
        axes.tick_params(length=0, labelsize=SIZE, labelcolor=LIGHT.soft, pad=6)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    def text(
        self,
        x: Pixels,
        y: Pixels,
        text: str,
        *,
        colour: str = LIGHT.ink,
        size: Pixels = SIZE,
        across: Literal["left", "center", "right"] = "left",
        along: Literal["center", "baseline", "top"] = "center",
        angle: Pixels = 0,
        mono: bool = False,
        bold: bool = False,
    ) -> Artist:
        """Write at a place on the sheet."""
        return self.drawing.text(
            (PAD + x) / self._sheet[0],
            1 - (PAD + y) / self._sheet[1],
            text,
            color=colour,
            size=size,
            ha=across,
            va=along if along != "center" else "center_baseline",
            rotation=angle,
            rotation_mode="anchor",
            family=MONO if mono else "DejaVu Sans",
            weight="bold" if bold else "normal",
        )

    def title(self, lines: list[str], height: Pixels) -> None:
        """Write the title's lines at the top left; a page, which has room for longer lines, writes it itself."""
        self.title_height = height
        for number, line in enumerate(lines):
            self.text(0, 8 + 16 * number, line, size=TITLE_SIZE).set_gid(f"title{number}")

    def mark(self, artist: Artist, text: str) -> None:
        """Give an artist its hover text; on a page it can be reached with the keyboard."""
        name = f"mark{len(self.marks)}"
        artist.set_gid(name)
        self.marks[name] = text

    def recolour(self, artist: Artist, dark: str) -> None:
        """Give a text that lies on a coloured ground the colour it has in the dark theme."""
        name = f"text{len(self.dark)}"
        artist.set_gid(name)
        self.dark[name] = dark


TITLE_SIZE = 12.5
ROUNDING = 0.96  # drawn at one pixel a point, each letter of a title is rounded to whole pixels: up to 4 % wider


def title_lines(title: str, width: Pixels) -> tuple[list[str], float]:
    """The title broken to this width, and the height it takes with the air below it."""
    lines = wrap(title, ROUNDING * width, TITLE_SIZE)
    return lines, 16.0 * len(lines) + 12 if lines else 0.0


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a rectangle is filled and edged.

    Attributes:
        fill: Its colour, or `none`.
        alpha: How opaque the fill is.
        edge: The colour of its edge and of its hatch, or `none`.
        edge_width: In pixels.
        hatch: matplotlib's pattern, or None.
        rounding: Radius of its corners, in the units of the axes.
    """

    fill: str = "none"
    alpha: float = 1.0
    edge: str = "none"
    edge_width: float = 0.0
    hatch: str | None = None
    rounding: Pixels = 0.0


def tile(axes: Axes, place: tuple[Pixels, Pixels, Pixels, Pixels], look: Look) -> Artist:
    """A rectangle.

    Args:
        axes: Where it is drawn.
        place: Left, top, width and height in the units of the axes.
        look: How it is filled and edged.
    """
    left, top, width, height = place
    if look.rounding:
        corners = f"round,pad=0,rounding_size={look.rounding}"
        shape = FancyBboxPatch((left, top), width, height, boxstyle=corners)
    else:
        shape = Rectangle((left, top), width, height)
    shape.set(
        facecolor=(look.fill, look.alpha) if look.fill != "none" else "none",
        edgecolor=look.edge,
        linewidth=look.edge_width,
        hatch=look.hatch,
        clip_on=False,
    )
    return axes.add_patch(shape)
