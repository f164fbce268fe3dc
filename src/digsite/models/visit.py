"""One forward pass: what it reads, how it edits, and what it has recorded.

Return-through: what is recorded at a site is the very tensor the model goes on with, so that
`torch.autograd.grad(metric, recorded)` finds it on the path. A site that is a view hands its view back; a site that
is computed beside the stream (`lowered`) is added back by difference, which is exactly zero when nothing changed.
"""

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import replace

import torch
from torch import Tensor, nn

from digsite._core.errors import BadInput, ContractBroken, SiteDidNotFire, explain
from digsite.models.cells import select
from digsite.models.edits import Edit, changed
from digsite.models.tokens import Tokens
from digsite.sites import SITES, Site

Key = tuple[int | None, str]


class StopForward(Exception):
    """Everything the run wants has been recorded."""


class Visit:
    """The state of one forward pass (of several in a row, when generating)."""

    def __init__(
        self,
        reads: Mapping[Key, frozenset[int] | None],
        edits: Iterable[Edit],
        tokens: Tokens,
        *,
        grad: bool = False,
        keep: Callable[[Key, Tensor], Tensor] | None = None,
        stop: Key | None = None,
        stop_when_read: bool = False,
        snapshots: frozenset[Key] = frozenset(),
        layer_of: Mapping[nn.Module, int] | None = None,
    ):
        self.reads = reads  # the heads of a site that are wanted; None for the whole site
        self.edits: dict[Key, list[Edit]] = {}
        for edit in edits:
            self.edits.setdefault(key_of(edit.site), []).append(edit)
        self.tokens, self.batch = tokens, len(tokens)
        self.grad, self.keep, self.stop, self.snapshots = grad, keep, stop, snapshots
        self.layer_of = layer_of or {}  # attention modules by identity: their own layer_idx may be None or repeat
        self.left = len(reads) if stop_when_read else -1
        self.past = 0  # columns that earlier passes have put into the KV cache
        self.got: dict[Key, Tensor] = {}
        self.got_heads: dict[tuple[Key, int], Tensor] = {}
        self.scratch: dict[Key, Tensor] = {}
        self.fired: set[Key] = set()
        self.versions: list[tuple[Key, Tensor, int]] = []
        self.wanted = frozenset((*reads, *self.edits) if stop is None else (*reads, *self.edits, stop))
        self.split: tuple[Tensor | None, tuple[Tensor, ...]] = (None, ())  # the last fused projection, taken apart
        self.plain = not (self.edits or keep or grad or stop or stop_when_read)  # nothing but reading, as it is

    def wants(self, key: Key) -> bool:
        """Whether this pass reads, edits or ends at a site."""
        return key in self.wanted

    def heads(self, key: Key) -> list[int] | None:
        """The only heads of a site that this pass is about, or None when it is about the whole site."""
        read = self.reads.get(key, frozenset())
        edited = [edit.site.head for edit in self.edits.get(key, ())]
        if read is None or None in edited:
            return None
        return sorted({*read, *(head for head in edited if isinstance(head, int))})

    def __call__(self, key: Key, x: Tensor) -> Tensor:
        """Edits and records the value of a site; returns what the model must go on with."""
        if self.plain and self.reads.get(key, ()) is None:
            self.got[key] = x
            self.versions.append((key, x, x._version))
            return x
        for edit in self.edits.get(key, ()):
            x = self._edited(edit, x)
        self.fired.add(key)
        if key in self.reads:
            x = self._recorded(key, x)
        if key == self.stop or self.left == 0:
            raise StopForward
        return x

    def one_head(self, key: Key, head: int, x: Tensor) -> Tensor:
        """As `__call__`, for one head's [row, position, ...] alone (per-head inputs are never materialised)."""
        for edit in self.edits.get(key, ()):
            if edit.site.head == head:
                x = self._selected(edit, x)
        self.fired.add(key)
        if key in self.reads and head in (self.reads[key] or ()):
            self.got_heads[key, head] = x if self.keep is None else self.keep(key, x)
        return x

    def head_done(self, key: Key) -> None:
        """Counts a site as read after its heads were visited one by one."""
        self.left -= key in self.reads
        if key == self.stop or self.left == 0:
            raise StopForward

    def _recorded(self, key: Key, x: Tensor) -> Tensor:
        heads = self.reads[key]
        if heads is None:
            self.got[key] = x if self.keep is None else self.keep(key, x)
            if self.keep is None and not self.grad:
                self.versions.append((key, x, x._version))
        elif self.grad:
            axis = head_axis(key[1])
            # A head's slice is off the path unless the model goes on with the slices themselves.
            parts = x.unbind(axis)
            x = torch.stack(parts, axis)
            for head in heads:
                self.got_heads[key, head] = parts[head]
        else:
            for head in heads:
                part = x.select(head_axis(key[1]), head)
                self.got_heads[key, head] = part.clone() if self.keep is None else self.keep(key, part)
        self.left -= 1
        return x

    def _edited(self, edit: Edit, x: Tensor) -> Tensor:
        head = edit.site.head
        if not isinstance(head, int):
            return self._selected(edit, x)
        axis = head_axis(edit.site.name)
        x = x.clone()
        x.select(axis, head).copy_(self._selected(edit, x.select(axis, head).clone()))
        return x

    def _selected(self, edit: Edit, x: Tensor) -> Tensor:
        """Applies an edit to its rows and positions of `x` ([row, position, ...], or [row, head, dst, src])."""
        if edit.at is None and edit.rows is None:
            return changed(edit, x)
        heads_first = "dst" in SITES[edit.site.name].axes and edit.site.head is None
        y = x.movedim(2, 1) if heads_first else x
        cells = select(self.tokens, edit.at, edit.rows, past=self.past, width=y.shape[1])
        if not cells.rows.numel():
            return x
        if edit.op == "swap" and cells.grid is None:
            raise BadInput(explain(f"The swap at {edit.site} selects another number of positions in different rows"))
        value, at = edit.value, 2 if heads_first else 1
        whole = isinstance(value, Tensor) and value.ndim == x.ndim and value.shape[at] == x.shape[at]
        if isinstance(value, Tensor) and whole and len(value) in (1, len(x)):
            value = value.expand(len(x), *value.shape[1:])
            edit = replace(edit, value=cells.take(value.movedim(2, 1) if heads_first else value))
        y = cells.put(y, changed(edit, cells.take(y)))
        return y.movedim(1, 2) if heads_first else y

    def finish(self) -> None:
        """Fire or fail, and nothing that was recorded may have been overwritten since."""
        missed = self.wanted - self.fired - self.got.keys()
        if missed:
            names = ", ".join(sorted({address(key) for key in missed}))
            raise SiteDidNotFire(
                explain(
                    f"The forward pass did not reach {names}",
                    do="check `stop` and that this layer runs for these tokens",
                )
            )
        for key in self.overwritten():
            raise ContractBroken(
                explain(
                    f"The model overwrote {address(key)} in place after it was read",
                    do="run model.verify(), which finds such sites and snapshots them",
                )
            )

    def overwritten(self) -> list[Key]:
        """Sites whose tensor the model changed after it was recorded."""
        return [key for key, x, version in self.versions if x._version != version]


VISIT: ContextVar[Visit | None] = ContextVar("visit", default=None)


def head_axis(name: str) -> int:
    """The head axis of a site's tensor."""
    axis = SITES[name].head_axis
    assert axis is not None, name
    return axis


def address(key: Key) -> str:
    """A key as it is written."""
    return key[1] if key[0] is None else f"layers.{key[0]}.{key[1]}"


def key_of(site: Site) -> Key:
    """The key of a concrete site."""
    return (site.layer if isinstance(site.layer, int) else None, site.name)
