"""What a study leaves: a page and its figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from benchmarks.science.tables import table

from digsite import Result
from digsite.viz import Figure


@dataclass(frozen=True, kw_only=True)
class Study:
    """A page and its figures by name; the page says `FIGURE-name.svg` where one stands."""

    page: str
    figures: Mapping[str, Figure]


class Page:
    """Sections in the order in which they are found; what failed its control is collected for the head."""

    def __init__(self, title: str):
        self.title = title
        self.lines, self.figures, self.failed = list[str](), dict[str, Figure](), list[dict[str, str]]()

    def part(
        self,
        title: str,
        asked: str,
        result: Result,
        frames: Sequence[pl.DataFrame],
        failures: Sequence[str] = (),
    ) -> None:
        """A result: what was done, its verdict as it is, its tables, its figure.

        Args:
            title: Of the section; also the figure's name.
            asked: What was done, in sentences.
            result: Its verdict and its figure are shown.
            frames: The tables.
            failures: What it did not stand up to, each as a phrase.
        """
        name = "".join(letter for letter in title.lower() if letter.isalnum() or letter == " ").replace(" ", "-")
        self.figures[name] = figure = result.figure()
        self.failed.append({"part": title, "did not stand up to": "; ".join(failures) or "–"})
        self.lines += [f"## {title}", "", asked, "", f"**{result.verdict}.**", ""]
        for frame in frames:
            self.lines += [*table(frame), ""]
        self.lines += [f"![{title}](FIGURE-{name}.svg)", ""]
        if more := figure.caption.removeprefix(f"{result.verdict}.").strip():
            self.lines += [more, ""]
        print(f"{title}: {result.verdict}", flush=True)

    def written(self) -> Study:
        """The page: what failed, then every section."""
        head = [f"# {self.title}", "", "## What did not stand up to its control", "", *table(pl.DataFrame(self.failed))]
        return Study(page="\n".join([*head, "", *self.lines]), figures=self.figures)
