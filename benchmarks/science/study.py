"""What a study leaves: a page and its figures."""

from collections.abc import Mapping
from dataclasses import dataclass

from digsite.viz import Figure


@dataclass(frozen=True, kw_only=True)
class Study:
    """A page and its figures by name; the page says `FIGURE-name.svg` where one stands."""

    page: str
    figures: Mapping[str, Figure]
