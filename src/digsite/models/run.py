"""What one forward pass gave."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from digsite._core.errors import NoSuchSite, explain
from digsite.models.anatomy import Anatomy
from digsite.models.plan import Plan
from digsite.models.tokens import Tokens
from digsite.models.visit import Key, head_axis
from digsite.sites import SITES, Range, Site


@dataclass(frozen=True, eq=False)
class Run:
    """The sites that were asked for, and the logits.

    `run["layers.5.resid_post"]` is a plain tensor with the axes of its site (see the glossary); a wildcard over layers
    stacks them on a first axis `layer`, and `[3]` picks a head. With positions chosen (`at=`), the position axis holds
    those alone. In a run with `grad=True` every concrete site that was read is on the autograd path.
    """

    tokens: Tokens
    plan: Plan
    values: Mapping[Key, Tensor] = field(repr=False)
    heads: Mapping[tuple[Key, int], Tensor] = field(repr=False)
    anatomy: Anatomy = field(repr=False)
    _logits: Tensor | None = field(default=None, repr=False)

    @property
    def logits(self) -> Tensor:
        """Logits [batch, pos, vocab] (the last k columns when the run asked for k).

        Raises:
            NoSuchSite: The run ended before the logits.
        """
        if self._logits is None:
            raise NoSuchSite(explain("This run has no logits", do='run without stop and with logits="all" or a number'))
        return self._logits

    def __getitem__(self, address: str | Site) -> Tensor:
        """The tensor of a site, or of several layers stacked on a first axis."""
        site = Site.parse(address, gated=self.anatomy.gated) if isinstance(address, str) else address
        each = self.each(site)
        if len(each) == 1 and not isinstance(site.layer, Range):
            return next(iter(each.values()))
        found = list(each.values())
        heads = [site.head for site in each if site.head is not None]
        if heads and len(set(heads)) > 1:
            raise NoSuchSite(
                explain(f"{address} names several heads", do="read the whole site, or use run.each(...) for a dict")
            )
        if len({tuple(value.shape) for value in found}) > 1:
            raise NoSuchSite(explain(f"The layers of {address} have different shapes", do="use run.each(...)"))
        return torch.stack([value.to(found[0].device) for value in found])

    def each(self, address: str | Site) -> dict[Site, Tensor]:
        """Every concrete site that an address matches, with its tensor (as it was recorded, on the path)."""
        return {site: self._one(site) for site in self.anatomy.expand(address)}

    def _one(self, site: Site) -> Tensor:
        key = (site.layer if isinstance(site.layer, int) else None, site.name)
        if isinstance(site.head, int):
            if (key, site.head) in self.heads:
                return self.heads[key, site.head]
            if key in self.values:
                axis = head_axis(site.name)
                at_one = self.plan.at is not None and self.values[key].ndim < len(SITES[site.name].axes)
                return self.values[key].select(axis - at_one if axis > 1 else axis, site.head)
        elif key in self.values:
            return self.values[key]
        raise NoSuchSite(
            explain(
                f"This run did not read {site}",
                possible=sorted({str(read) for read in self.plan.reads}),
                do=f'add it: model.run(tokens, read=["{site}"])',
            )
        )

    def __repr__(self) -> str:
        shown = ", ".join(f"{site}" for site in self.plan.reads[:6])
        more = f" and {len(self.plan.reads) - 6} more" if len(self.plan.reads) > 6 else ""
        return f"Run of {len(self.tokens)} rows × {self.tokens.ids.shape[1]} columns: {shown or 'logits'}{more}"
