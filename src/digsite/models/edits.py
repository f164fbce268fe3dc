"""Edits: pure changes of one site, as data.

An edit says where (`site`, `at`, `rows`), what (`op`) and with which numbers. Positions are absolute and count real
tokens, so an edit means the same under padding and with a KV cache. Nothing here touches a model; `Model.run` applies
an edit when the forward pass reaches its site.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite.models.tokens import Positions, Tokens
from digsite.sites import SITES, Site

OPS = ("replace", "add", "scale", "cap", "swap", "apply")
HOW = ("zero", "mean", "position-mean", "resample")


@dataclass(frozen=True, eq=False, kw_only=True)
class Edit:
    """One change at one site.

    Attributes:
        site: Where; one head of it with a head index.
        op: What happens to the value there; one of `OPS`.
        value: The operand: a tensor that broadcasts against what is selected, or a number.
        at: Which positions (see `Tokens.places`); None for all, those generated later included.
        rows: Which rows of the batch; None for all.
        function: For "apply": the user's own pure function of the selected value.
        over: For an ablation that still has to be measured: the tokens or corpus to measure it on.
        how: How `over` becomes a value.
        limit: For "cap".
        seed: For "resample".
        within: Orthonormal vectors; only the part of the change that lies in their span is made. None for all of it.
    """

    site: Site
    op: str
    value: Tensor | float | None = None
    at: Positions = None
    rows: tuple[int, ...] | None = None
    function: Callable[[Tensor], Tensor] | None = None
    over: Any = None
    how: str | None = None
    limit: float = 0.0
    seed: int = 0
    within: Float[Tensor, "basis width"] | None = None

    @property
    def tail(self) -> int:
        """How many axes the selected value has after [row, position]."""
        return len(SITES[self.site.name].axes) - 2 - (self.site.head is not None)

    def for_rows(self, rows: slice, total: int) -> "Edit | None":
        """The same edit for a part of a batch of `total` rows, or None if it concerns none of them."""
        start, stop, _ = rows.indices(total)
        chosen, inside = self.rows, list(range(total))[rows]
        value, at = self.value, self.at
        if chosen is not None:
            inside = [i for i, row in enumerate(chosen) if start <= row < stop]
            chosen = tuple(chosen[i] - start for i in inside)
            if not chosen:
                return None
        if isinstance(value, Tensor) and self._has_rows(value, total):
            value = value[rows]
        elif isinstance(value, Tensor) and self.rows is not None and self._has_rows(value, len(self.rows)):
            value = value[inside]
        if isinstance(at, Tensor) and at.ndim and len(at) == total:
            at = at[rows]
        if self.op == "swap" and total != stop - start:
            raise BadInput(explain(f"A swap at {self.site} joins rows", do="run all rows in one batch"))
        return dataclasses.replace(self, value=value, at=at, rows=chosen)

    def check(self, tokens: Tokens) -> None:
        """Refuses an edit whose rows are not there.

        Raises:
            BadInput: Rows, or the order of a swap, that the batch does not have.
        """
        for row in self.rows or ():
            if not 0 <= row < len(tokens):
                raise BadInput(
                    explain(f"Row {row} is not in the batch", found=f"{len(tokens)} rows", do="count rows from 0")
                )
        if self.op == "swap" and isinstance(self.value, Tensor):
            order = self.value.tolist()
            if len(order) != len(tokens) or not all(0 <= row < len(tokens) for row in order):
                raise BadInput(
                    explain(
                        f"The order {order} of the swap at {self.site} does not fit the batch",
                        found=f"{len(tokens)} rows",
                        do="name for each row the row that it gets its value from",
                    )
                )

    def _has_rows(self, value: Tensor, total: int) -> bool:
        at_one = isinstance(self.at, int) or (isinstance(self.at, Tensor) and self.at.ndim == 1)
        full = self.tail + (1 if at_one else 2)
        return value.ndim in (full, self.tail + 2) and value.ndim > self.tail and len(value) == total


Where = str | Site


def replace(
    site: Where,
    value: Tensor,
    *,
    at: Positions = None,
    rows: Sequence[int] | None = None,
    within: Tensor | None = None,
) -> Edit:
    """Put a value in the place of what the model computed.

    Args:
        site: An address such as "layers.5.attn.z[3]".
        value: Broadcasts against the selected [row, position, ...]; or the whole site, of which the same positions
            are taken.
        at: Positions; None for all.
        rows: Rows of the batch; None for all.
        within: Vectors [basis, width]: only the part in their span is replaced, the rest stays.
    """
    return _edit(site, "replace", value, at, rows, within)


def add(
    site: Where,
    vector: Tensor,
    *,
    scale: float = 1.0,
    at: Positions = None,
    rows: Sequence[int] | None = None,
) -> Edit:
    """Add `scale` times a vector: steering in its simplest form, in the raw units of the site."""
    return _edit(site, "add", vector * scale, at, rows)


def scale(
    site: Where,
    factor: float,
    *,
    at: Positions = None,
    rows: Sequence[int] | None = None,
    within: Tensor | None = None,
) -> Edit:
    """Multiply what is there by a number: 0 removes it, 2 doubles it, -1 turns it round.

    Where vectors `within` [basis, width] are given, only the part in their span is multiplied.
    """
    return _edit(site, "scale", factor, at, rows, within)


def cap(
    site: Where,
    direction: Float[Tensor, " d_model"],
    limit: float,
    *,
    at: Positions = None,
    rows: Sequence[int] | None = None,
) -> Edit:
    """Keep the reading along a direction at or below a limit: x - relu(x·v - limit) v, with v of unit norm."""
    return dataclasses.replace(_edit(site, "cap", _unit(direction), at, rows), limit=limit)


def swap(site: Where, order: Sequence[int], *, at: Positions = None, within: Tensor | None = None) -> Edit:
    """Interchange rows of one batch: row i gets what row order[i] computed at this site, in the same pass.

    Where vectors `within` [basis, width] are given, only the part in their span is interchanged.
    """
    return _edit(site, "swap", torch.tensor(list(order)), at, None, within)


def apply(
    site: Where,
    function: Callable[[Tensor], Tensor],
    *,
    at: Positions = None,
    rows: Sequence[int] | None = None,
) -> Edit:
    """Your own pure function of the selected value. It cannot be saved as data, as the other edits can."""
    return dataclasses.replace(_edit(site, "apply", None, at, rows), function=function)


def patch(
    site: Where,
    source: Any,
    *,
    at: Positions = None,
    source_at: Positions = None,
    rows: Sequence[int] | None = None,
    within: Tensor | None = None,
) -> Edit:
    """Put in what another run computed at the same site (an interchange intervention).

    Args:
        site: An address; the source run must have read it.
        source: A `Run`, row by row the donor of the run that will be edited.
        at: Positions that receive.
        source_at: Positions that give, where they differ.
        rows: Rows of the batch; None for all.
        within: Vectors [basis, width]: only the part in their span is put in (an interchange in a subspace).

    Raises:
        ShapeMismatch: The two runs have different shapes and `at`/`source_at` do not settle which goes where.
    """
    site = Site.parse(site) if isinstance(site, str) else site
    value = source[site]
    if source_at is not None:
        kind = SITES[site.name]
        value = value.movedim(2, 1) if "dst" in kind.axes and site.head is None else value
        places = source.tokens.places(source_at)
        if places.per_row is None:
            raise ShapeMismatch(explain("source_at selects another number of positions in different rows"))
        value = value[places.rows, places.columns].unflatten(0, (-1, places.per_row))
        value = value.squeeze(1) if isinstance(at, int) else value
    return _edit(site, "replace", value, at, rows, within)


def ablate(
    site: Where,
    *,
    how: str = "zero",
    over: Any = None,
    direction: Tensor | None = None,
    at: Positions = None,
    rows: Sequence[int] | None = None,
    seed: int = 0,
) -> Edit:
    """Take away what a component says on this input.

    Args:
        site: An address; wildcards ablate every site they match.
        how: "zero"; "mean" over all real tokens of `over`; "position-mean", the mean at each position of `over`
            (rows must be aligned); "resample", the value of another, seeded row of `over`.
        over: Tokens or a corpus (anything with `.batches(batch_size)`) on which the replacement is measured.
        direction: Remove only the component along this vector: x - (x·v) v.
        at: Positions.
        rows: Rows.
        seed: For "resample".

    Caveats:
        Zero is rarely a value the model ever sees; a mean or a resampled value keeps the input on distribution.
    """
    if how not in HOW:
        raise BadInput(explain(f"how={how!r} is not an ablation", possible=HOW, near=how))
    if direction is not None:
        return _edit(site, "scale", 0.0, at, rows, direction[None])
    if how == "zero":
        return _edit(site, "scale", 0.0, at, rows)
    if over is None:
        raise BadInput(explain(f"how={how!r} needs something to measure it on", do="pass over=tokens or over=corpus"))
    return dataclasses.replace(_edit(site, "replace", None, at, rows), over=over, how=how, seed=seed)


def _edit(
    site: Where, op: str, value: Any, at: Positions, rows: Sequence[int] | None, within: Tensor | None = None
) -> Edit:
    site = Site.parse(site) if isinstance(site, str) else site
    if rows is not None:
        if isinstance(value, Tensor) and list(rows) != sorted(set(rows)):
            raise BadInput(
                explain("Rows of an edit ascend", found=f"{list(rows)}", do="sort them, and the values alike")
            )
        rows = tuple(sorted(set(rows)))
    basis = None if within is None else orthonormal(within)
    return Edit(site=site, op=op, value=value, at=at, rows=rows, within=basis)


def orthonormal(vectors: Tensor) -> Float[Tensor, "basis width"]:
    """Orthonormal vectors with the span of these; as they are, where they are orthonormal already.

    Raises:
        BadInput: They are linearly dependent, zero, not finite, or not as [basis, width].
    """
    if vectors.ndim != 2 or not 1 <= len(vectors) <= vectors.shape[1]:
        raise BadInput(
            explain("Vectors that span a subspace are [basis, width]", found=f"shape {tuple(vectors.shape)}")
        )
    wide = vectors.double()
    norms = wide.norm(dim=1)
    if not bool(torch.isfinite(norms).all()) or not bool((norms > 0).all()):
        raise BadInput(explain("A direction must have a length", found=f"norm {float(norms.min())}"))
    wide = wide / norms[:, None]
    if len(wide) > 1 and not torch.allclose(wide @ wide.T, torch.eye(len(wide), dtype=wide.dtype), atol=1e-6):
        basis, left = torch.linalg.qr(wide.T)
        least = float(left.diagonal().abs().min())
        if least < 1e-6:
            raise BadInput(
                explain("Vectors that span a subspace are linearly independent", found=f"{least:.1e} of one is its own")
            )
        wide = basis.T
    return wide.to(vectors.dtype)


def _unit(direction: Tensor) -> Tensor:
    return orthonormal(direction[None])[0]


def changed(edit: Edit, x: Tensor) -> Tensor:
    """The new value of the selected part `x` ([row, position, ...] or, at one position, [row, ...])."""
    new = _changed(edit, x)
    if edit.within is None:
        return new
    if edit.within.shape[1] != x.shape[-1]:
        raise ShapeMismatch(
            explain(
                f"The directions of the edit at {edit.site} have another width than what is there",
                found=f"vectors of {edit.within.shape[1]} numbers, selected activation {tuple(x.shape)}",
            )
        )
    exact = torch.promote_types(x.dtype, torch.float32)
    basis = edit.within.to(x.device, exact)
    return (x.to(exact) + (new - x).to(exact) @ basis.T @ basis).to(x.dtype)


def _changed(edit: Edit, x: Tensor) -> Tensor:
    value: Any = edit.value
    if isinstance(value, Tensor) and edit.op != "swap":
        value = value.to(device=x.device, dtype=x.dtype)
    match edit.op:
        case "replace":
            return _expanded(edit, value, x)
        case "add":
            _check(edit, value, x)
            return x + value
        case "scale":
            return x * value
        case "cap":
            _check(edit, value, x)
            return x - torch.relu((x * value).sum(-1, keepdim=True) - edit.limit) * value
        case "swap":
            return x[value.to(x.device)]
        case "apply":
            new = edit.function(x)  # pyright: ignore[reportOptionalCall]
            _check_result(edit, new, x)
            return new
    raise BadInput(explain(f"{edit.op!r} is not an edit", possible=OPS, near=edit.op))


def _expanded(edit: Edit, value: Any, x: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.full_like(x, value)
    _check(edit, value, x)
    return value.expand_as(x)


def _check(edit: Edit, value: Any, x: Tensor) -> None:
    if not isinstance(value, Tensor):
        return
    try:
        fits = torch.broadcast_shapes(value.shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ShapeMismatch(
            explain(
                f"The value of the edit at {edit.site} does not fit",
                found=f"value {tuple(value.shape)}, selected activation {tuple(x.shape)}",
                do="give a tensor that broadcasts against the selected activation",
            )
        )


def _check_result(edit: Edit, new: Any, x: Tensor) -> None:
    if not isinstance(new, Tensor) or new.shape != x.shape:
        found = f"{type(new).__name__}" + (f" {tuple(new.shape)}" if isinstance(new, Tensor) else "")
        raise ShapeMismatch(
            explain(
                f"The function of the edit at {edit.site} must return a tensor of the shape it got",
                found=f"{found} for {tuple(x.shape)}",
            )
        )
