"""A figure: a picture, the numbers it shows, what to see in it, and the code that made it."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure as Drawing

from digsite._core.errors import BadInput, explain
from digsite._core.files import write_whole
from digsite.viz import svg
from digsite.viz.canvas import Canvas, drawing
from digsite.viz.html import render

FORMATS = (".svg", ".png", ".pdf")


@dataclass(frozen=True, kw_only=True, eq=False)
class Figure:
    """A picture with its numbers; a notebook shows it, `save` writes it, a report takes it in.

    Attributes:
        title: What it shows, with the unit.
        caption: What to see in it.
        data: The numbers in the picture, one row for each mark.
        code: The call that made the numbers.
        canvas: The drawn sheet with its hover texts.
    """

    title: str
    caption: str
    data: pl.DataFrame
    code: str
    canvas: Canvas

    @property
    def drawing(self) -> Drawing:
        """The matplotlib figure, to change a label or a size before saving."""
        return self.canvas.drawing

    @property
    def name(self) -> str:
        """A file name for it, made from its title."""
        words = "".join(letter if letter.isalnum() else " " for letter in self.title.lower()).split()
        return "-".join(words)[:60].strip("-") or "figure"

    def save(self, path: str | Path) -> Path:
        """Write the picture as SVG, PNG or PDF, by the ending of the name; the code that made it goes in its metadata.

        Args:
            path: Where to; missing folders are made. The numbers are in `data` (`figure.data.write_csv(...)`).

        Returns:
            The path.

        Raises:
            BadInput: Another ending.
        """
        path = Path(path)
        match path.suffix.lower():
            case ".svg":
                content = self.svg()
            case ".png":
                content = self.png(scale=3.0)
            case ".pdf":
                content = self._pdf()
            case other:
                asked = f"A figure cannot be saved as {path.name!r}"
                raise BadInput(explain(asked, found=other or "no ending", possible=FORMATS, do="Name it figure.svg"))
        return write_whole(path, content)

    def svg(self, *, page: bool = False, prefix: str | None = None) -> str:
        """The picture as SVG: a file in light colours, or the themed element of a page.

        Args:
            page: Colours follow the reader's system, marks carry hover text and can be reached with the keyboard.
            prefix: What makes its ids unique on the page; from the data where not given.
        """
        if not page:
            return svg.standalone(self.canvas, title=self.title, description=self.code)
        return svg.themed(self.canvas, title=self.title, prefix=prefix or self._fingerprint)

    def png(self, *, scale: float = 2.0) -> bytes:
        """The picture as PNG in light colours.

        Args:
            scale: Image pixels for each pixel of the sheet.
        """
        written = io.BytesIO()
        metadata = {"Title": self.title, "Description": self.code, "Software": "digsite"}
        with drawing():
            self.drawing.savefig(written, format="png", dpi=72 * scale, metadata=metadata)
        return written.getvalue()

    def _pdf(self) -> bytes:
        written = io.BytesIO()
        metadata = {"Title": self.title, "Subject": self.code, "Creator": "digsite", "CreationDate": None}
        with drawing():
            self.drawing.savefig(written, format="pdf", metadata=metadata)
        return written.getvalue()

    @property
    def _fingerprint(self) -> str:
        content = "\n".join((self.title, self.caption, self.data.write_csv()))
        return "f" + hashlib.sha256(content.encode()).hexdigest()[:10]

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return str(render("notebook.html", figure=self))
