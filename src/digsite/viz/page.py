"""A report as one page: the question, the verdict, the evidence in a sceptic's order, and how to repeat it.

The page is one file. It asks nothing of the network (its own content policy forbids it), works from a disk, follows the
system's light and dark, and can be read at 360 pixels, on paper, with a keyboard alone and with a screen reader.
"""

import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from digsite._core.files import write_whole
from digsite.viz.figure import Figure
from digsite.viz.html import data_uri, render
from digsite.viz.table import Chip, data_table

Part = Figure | Markup | str
LARGEST_PNG = 150_000  # bytes; a larger picture is not put in the page a second time


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """One step of the evidence.

    Attributes:
        title: What it answers.
        chips: Short verdicts beside the title.
        body: Figures, tables and token rows, and captions as plain strings. Figures that follow each other stand side
            by side where there is room.
    """

    title: str
    chips: tuple[Chip, ...] = ()
    body: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Everything a page says. Names in backticks are shown as code; all else is shown as it is written.

    Attributes:
        title: The question.
        kind: What sort of report it is, said above the title.
        meta: Task, number of examples, size of the model, time and date, one short phrase each.
        verdict: The answer in one or two sentences with their numbers; what failed its control is said here too.
        sections: The evidence.
        cost: What it cost, one short phrase each.
        command: The command or call that makes it again.
        provenance: Versions, fingerprints and seed by name.
    """

    title: str
    verdict: str
    sections: tuple[Section, ...]
    command: str
    kind: str = "Investigation"
    meta: tuple[str, ...] = ()
    cost: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)

    def html(self) -> str:
        """The page."""
        numbers = itertools.count(1)
        sections = [
            {
                "title": section.title,
                "chips": section.chips,
                "parts": [part for group in _groups(section) for part in _rendered(group, numbers)],
            }
            for section in self.sections
        ]
        return str(render("page.html", report=self, sections=sections))

    def write(self, path: str | Path) -> Path:
        """Write the page as one HTML file, whole or not at all.

        Args:
            path: Where to; missing folders are made.

        Returns:
            The path.
        """
        return write_whole(path, self.html())

    def _repr_html_(self) -> str:
        return str(render("frame.html", page=self.html(), title=self.title))


def _groups(section: Section) -> list[list[Part]]:
    return [list(parts) for _, parts in itertools.groupby(section.body, key=lambda part: isinstance(part, Figure))]


def _rendered(group: list[Part], numbers: Iterator[int]) -> list[Markup]:
    """Figures that follow each other as one row, every other part by itself."""
    figures = [picture(part, next(numbers)) for part in group if isinstance(part, Figure)]
    if figures:
        return [render("figures.html", figures=figures)]
    return [part if isinstance(part, Markup) else render("caption.html", text=part) for part in group]


def picture(figure: Figure, number: int) -> dict[str, object]:
    """A figure with what stands under it: its table and its files.

    Args:
        figure: The figure.
        number: No other figure of the page has it.
    """
    numbers = io.BytesIO()
    figure.data.write_parquet(numbers)
    files: dict[str, tuple[str | bytes, str]] = {
        "svg": (figure.svg(), "image/svg+xml"),
        "csv": (figure.data.write_csv(), "text/csv"),
        "parquet": (numbers.getvalue(), "application/vnd.apache.parquet"),
    }
    picture = figure.png()
    if len(picture) <= LARGEST_PNG:
        files["png"] = (picture, "image/png")
    return {
        "svg": Markup(figure.svg(page=True, prefix=f"f{number}")),
        "caption": figure.caption,
        "title": figure.title,
        "width": figure.canvas.width,
        "rows": len(figure.data),
        "table": data_table(figure.data),
        "name": figure.name,
        "files": {ending: data_uri(content, kind) for ending, (content, kind) in files.items()},
    }
