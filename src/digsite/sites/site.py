"""`Site`: an address inside a model, and the grammar in which it is written::

    layers.5.attn.z          one site of one layer, all heads together
    layers.5.attn.z[3]       one head of it
    layers.4-8.resid_post    layers 4, 5, 6, 7 and 8
    layers.*.attn.z[*]       every head of every layer, one at a time
    embed, final.norm        sites outside the layers

The same grammar reads TransformerLens' names: `blocks.5.attn.hook_z` is `layers.5.attn.z`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NoReturn

from digsite._core.errors import NoSuchSite, explain
from digsite.sites.table import GATED, SITES, SiteKind, transformer_lens_hooks

_NUMBER = "0|[1-9][0-9]{0,6}"
_ADDRESS = re.compile(
    rf"(?:(?P<root>layers|blocks)\.(?P<layer>[*]|(?:{_NUMBER})(?:-(?:{_NUMBER}))?)\.)?"
    rf"(?P<name>[a-z_][a-z0-9_.]*)(?:\[(?P<head>[*]|(?:{_NUMBER})(?:-(?:{_NUMBER}))?)\])?"
)
_HOW = "Write layers.<layer>.<name>, with [<head>] where a site has heads; a layer or head is 5, 4-8 or *"


@dataclass(frozen=True, slots=True)
class Range:
    """Several layers or heads: from `first` to `last`, both included; `last` None means to the end."""

    first: int
    last: int | None

    def __post_init__(self) -> None:
        if (
            self.first < 0
            or (self.last is None and self.first > 0)
            or (self.last is not None and self.last < self.first)
        ):
            raise NoSuchSite(
                explain(
                    f"A range of layers or heads cannot go from {self.first} to {self.last}",
                    possible="0 <= first <= last, both included, or * for all",
                )
            )

    def __str__(self) -> str:
        return "*" if self.last is None else f"{self.first}-{self.last}"

    def within(self, count: int) -> range:
        """The numbers that the range stands for where there are `count` of them."""
        return range(self.first, count if self.last is None else self.last + 1)


ALL: Final = Range(0, None)
"""Every layer, or every head; written `*`."""


@dataclass(frozen=True, slots=True)
class Site:
    """An address inside a model, such as `layers.5.attn.z[3]`.

    Attributes:
        name: The kind of site, a key of `SITES`.
        layer: A layer, several, or None for a site outside the layers.
        head: One head, several, or None for all heads together.
    """

    name: str
    layer: int | Range | None = None
    head: int | Range | None = None

    def __post_init__(self) -> None:
        kind = SITES.get(self.name)
        if kind is None:
            _unknown(self.name, self.name, SITES)
        if kind.per_layer and self.layer is None:
            raise NoSuchSite(
                explain(
                    f"{self.name} is in every layer, and no layer was named",
                    do=f"Write layers.0.{self.name} for one layer or layers.*.{self.name} for all",
                )
            )
        if not kind.per_layer and self.layer is not None:
            raise NoSuchSite(explain(f"{self.name} is not inside a layer", found=str(self), do=f"Write {self.name}"))
        if self.head is not None and kind.head_axis is None:
            raise NoSuchSite(
                explain(
                    f"{self} asks for a head, and {self.name} has no heads",
                    found=f"axes {' '.join(kind.axes)}",
                    possible=[name for name, other in SITES.items() if other.head_axis is not None],
                )
            )
        for what, number in (("layer", self.layer), ("head", self.head)):
            if isinstance(number, int) and number < 0:
                raise NoSuchSite(explain(f"There is no {what} {number} in {self.name}", do="Count from 0"))

    @staticmethod
    def parse(address: str, *, gated: bool | None = None) -> "Site":
        """Read an address, in digsite's words or in TransformerLens'.

        Args:
            address: Such as `layers.5.attn.z[3]` or `blocks.5.attn.hook_z`.
            gated: Whether the model's MLPs are gated, None where no model is known. It matters for one name:
                TransformerLens calls the gate `mlp.hook_pre` there, and elsewhere what digsite calls `mlp.up`.

        Raises:
            NoSuchSite: The address is not in the grammar, names no site, asks for a head where there are none, or is
                a TransformerLens name that could be two sites.
        """
        return _parse(address, gated)

    def __str__(self) -> str:
        layer = "" if self.layer is None else f"layers.{self.layer}."
        head = "" if self.head is None else f"[{self.head}]"
        return f"{layer}{self.name}{head}"

    @property
    def kind(self) -> SiteKind:
        """The row of `SITES` that this address is in: axes and meaning."""
        return SITES[self.name]

    @property
    def is_concrete(self) -> bool:
        """Whether the address names one tensor, not several."""
        return not isinstance(self.layer, Range) and not isinstance(self.head, Range)

    def expand(self, n_layers: int, heads: Mapping[str, int]) -> list["Site"]:
        """The concrete sites that the address stands for in a model, layer by layer and head by head.

        Args:
            n_layers: How many layers the model has.
            heads: How many heads, by axis word: `{"head": 12, "kv_head": 4}`.

        Raises:
            NoSuchSite: A layer or head is out of range.
        """
        kind = self.kind
        layers = _numbers(self, self.layer, n_layers, "layer")
        axis = None if kind.head_axis is None else kind.axes[kind.head_axis]
        each = _numbers(self, self.head, heads[axis], axis) if axis and self.head is not None else [None]
        if self.is_concrete:
            return [self]
        return [Site(self.name, layer, head) for layer in layers for head in each]


def _numbers(site: Site, asked: int | Range | None, count: int, what: str) -> list[int] | list[None]:
    if asked is None:
        return [None]
    numbers = asked.within(count) if isinstance(asked, Range) else range(asked, asked + 1)
    if numbers.stop > count:
        words = {"layer": "layer", "head": "head", "kv_head": "key/value head"}[what]
        raise NoSuchSite(
            explain(
                f"{site} asks for {words} {asked}",
                found=f"a model with {count} {words}{'' if count == 1 else 's'}",
                possible=f"{words} {'0' if count == 1 else f'0 to {count - 1}'}" if count else "",
                do="Ask for one that exists, or write * for all",
            )
        )
    return list(numbers)


@lru_cache(maxsize=65536)
def _parse(address: str, gated: bool | None) -> Site:  # noqa: FBT001 - a cache key
    match = _ADDRESS.fullmatch(address.strip())
    if match is None or match["name"].startswith(("layers.", "blocks.")):
        examples = "layers.5.attn.z[3], layers.*.resid_post, final.norm"
        raise NoSuchSite(explain(f"'{address}' is not an address", possible=examples, do=_HOW))
    name = match["name"]
    if match["root"] == "blocks" or "hook_" in name:
        hooks = {hook: native for native, hook in transformer_lens_hooks(gated=gated).items()}
        if name not in hooks:
            _unknown_hook(address, name, hooks)
        name = hooks[name]
    elif name not in SITES:
        _unknown(address, name, SITES)
    return Site(name, _index(match["layer"]), _index(match["head"]))


def _index(text: str | None) -> int | Range | None:
    if text is None:
        return None
    if text == "*":
        return ALL
    first, _, last = text.partition("-")
    return Range(int(first), int(last)) if last else int(first)


def _unknown(address: str, name: str, known: Mapping[str, object]) -> NoReturn:
    raise NoSuchSite(explain(f"There is no site '{address}'", possible=_relatives(name, known), near=name, do=_HOW))


def _unknown_hook(address: str, name: str, hooks: Mapping[str, str]) -> NoReturn:
    if name in GATED.values():
        asked = f"'{address}' is another site in a gated MLP than elsewhere"
        raise NoSuchSite(explain(asked, do="Write layers.<layer>.mlp.gate or layers.<layer>.mlp.up"))
    asked = f"'{address}' is not a TransformerLens name that digsite knows"
    raise NoSuchSite(explain(asked, possible=_relatives(name, hooks), near=name))


def _relatives(name: str, known: Iterable[str]) -> list[str]:
    """The names that begin as this one does, so that an error lists what could have been meant."""
    first, dot, _ = name.partition(".")
    return [other for other in known if other.partition(".")[:2] == (first, dot) and dot] or list(known)
