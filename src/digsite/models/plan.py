"""A run's plan as plain data: what to read, what to edit, where to stop.

A plan names no Python object of the model, so it can be saved, compared, and executed by another driver elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from digsite._core.errors import BadInput, Unsupported, explain
from digsite.models.edits import Edit
from digsite.models.tokens import Positions, Tokens
from digsite.models.visit import Key, key_of
from digsite.sites import SITES, Site

Logits = Literal["all"] | int | None


class Reads(tuple[Site, ...]):
    """Concrete sites to record; what every pass needs to know of them is worked out once."""

    @cached_property
    def heads(self) -> Mapping[Key, frozenset[int] | None]:
        """The heads that are wanted of each site; None for the whole site."""
        found: dict[Key, frozenset[int] | None] = {}
        for site in self:
            key = key_of(site)
            known = found.get(key, frozenset())
            found[key] = known | {site.head} if isinstance(site.head, int) and known is not None else None
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """What one run does.

    Attributes:
        reads: Concrete sites to record.
        edits: Changes, applied in this order at each site.
        stop: End the pass when this site has been visited; there are no logits then.
        logits: "all" columns, the last k columns, or None; with None the pass ends with its last read.
        at: Positions to record; None for all columns, padding included.
        grad: Keep everything on the autograd path.
        to: Device to put what is recorded on.
        dtype: Name of the dtype to record in ("float16").
        adapters: Whether adapters (LoRA) are on.
    """

    reads: Reads = field(default_factory=Reads)
    edits: tuple[Edit, ...] = ()
    stop: Site | None = None
    logits: Logits = "all"
    at: Positions = None
    grad: bool = False
    to: str | None = None
    dtype: str | None = None
    adapters: bool = True

    def __post_init__(self):
        if not isinstance(self.reads, Reads):
            object.__setattr__(self, "reads", Reads(self.reads))
        logits = self.logits
        if logits not in ("all", None) and (isinstance(logits, bool) or not isinstance(logits, int) or logits < 1):
            raise BadInput(
                explain(f"logits={logits!r} is no choice", possible='"all", the last k columns (k ≥ 1), None')
            )
        if logits is None and not self.reads and self.stop is None:
            raise BadInput(explain("A run without logits, reads or stop has nothing to do"))
        if self.grad and (self.to is not None or self.dtype is not None or self.at is not None):
            raise BadInput(explain("With grad=True the sites themselves are kept", do="leave out at, to and dtype"))

    def keeper(self, tokens: Tokens) -> Callable[[Key, Tensor], Tensor] | None:
        """What is done to a tensor before it is recorded; None for nothing.

        Raises:
            BadInput: The positions are not equally many in every row.
        """
        if self.at is None and self.to is None and self.dtype is None:
            return None
        dtype = None if self.dtype is None else getattr(torch, self.dtype)
        places = None if self.at is None else tokens.places(self.at)
        if places is not None and places.per_row is None:
            raise BadInput(
                explain("at= selects another number of positions in different rows", do="choose equally many")
            )
        one = isinstance(self.at, int)

        def keep(key: Key, x: Tensor) -> Tensor:
            if places is not None:
                query_axis = "dst" in SITES[key[1]].axes and x.ndim == len(SITES[key[1]].axes)
                x = x.movedim(2, 1) if query_axis else x
                x = x[places.rows.to(x.device), places.columns.to(x.device)].unflatten(0, (-1, places.per_row or 0))
                x = x.squeeze(1) if one else x
                if query_axis:
                    x = x if one else x.movedim(2, 1)
            moved = x.to(device=self.to, dtype=dtype)
            return moved.clone() if moved is x and places is None else moved

        return keep

    def to_dict(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The plan as JSON-ready data, and the tensors that it refers to by name.

        Raises:
            Unsupported: An edit is a Python function, or has yet to be measured on a corpus.
        """
        tensors: dict[str, Tensor] = {}

        def stored(value: Any, name: str) -> Any:
            if isinstance(value, Tensor):
                tensors[name] = value.detach().cpu().contiguous()
                return {"tensor": name}
            if isinstance(value, slice):
                return {"slice": [value.start, value.stop, value.step]}
            return list(value) if isinstance(value, tuple | range) else value

        edits = []
        for i, edit in enumerate(self.edits):
            if edit.function is not None or edit.over is not None:
                raise Unsupported(
                    explain(
                        f"The edit at {edit.site} is not plain data",
                        found="a Python function" if edit.function else "an ablation that has yet to be measured",
                        do="use the named edits" if edit.function else "call model.resolved(edit) first",
                    )
                )
            edits.append(
                {
                    "site": str(edit.site),
                    "op": edit.op,
                    "value": stored(edit.value, f"edits.{i}.value"),
                    "at": stored(edit.at, f"edits.{i}.at"),
                    "rows": stored(edit.rows, f"edits.{i}.rows"),
                    "limit": edit.limit,
                    "within": stored(edit.within, f"edits.{i}.within"),
                }
            )
        data = {
            "reads": [str(site) for site in self.reads],
            "edits": edits,
            "stop": None if self.stop is None else str(self.stop),
            "logits": self.logits,
            "at": stored(self.at, "at"),
            "grad": self.grad,
            "to": self.to,
            "dtype": self.dtype,
            "adapters": self.adapters,
        }
        return data, tensors

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Plan":
        """The plan that `to_dict` wrote."""

        def loaded(value: Any) -> Any:
            if isinstance(value, Mapping):
                return tensors[value["tensor"]] if "tensor" in value else slice(*value["slice"])
            return value

        edits = tuple(
            Edit(
                site=Site.parse(edit["site"]),
                op=edit["op"],
                value=loaded(edit["value"]),
                at=loaded(edit["at"]),
                rows=None if edit["rows"] is None else tuple(edit["rows"]),
                limit=edit["limit"],
                within=loaded(edit["within"]),
            )
            for edit in data["edits"]
        )
        return cls(
            reads=Reads(Site.parse(site) for site in data["reads"]),
            edits=edits,
            stop=None if data["stop"] is None else Site.parse(data["stop"]),
            logits=data["logits"],
            at=loaded(data["at"]),
            grad=data["grad"],
            to=data["to"],
            dtype=data["dtype"],
            adapters=data["adapters"],
        )
