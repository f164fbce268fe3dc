"""Values for ablations that are measured: means and resampled activations of a corpus."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite.models.edits import Edit
from digsite.models.tokens import Tokens
from digsite.sites import SITES, Site

BATCH = 64


@runtime_checkable
class TokenSource(Protocol):
    """Anything that yields token rows: `Tokens`, a `Corpus`."""

    @property
    def fingerprint(self) -> Any:  # a str; the type checker does not take a cached_property for a property of str
        """Identifies the rows."""
        ...

    def batches(self, batch_size: int) -> Iterable[Tokens]:
        """The rows, some at a time."""
        ...


def resolved(model: Any, edit: Edit, tokens: Tokens | None) -> Edit:
    """The edit with its value measured on `edit.over`.

    Raises:
        BadInput: The corpus is empty, or an attention pattern is to be averaged over positions.
        ShapeMismatch: Rows of `over` do not line up with the rows of the run, where they must.
    """
    over = edit.over
    site, how = edit.site, edit.how
    if how == "mean" and "dst" in SITES[site.name].axes:
        raise BadInput(
            explain(
                f"The mean of {site} over positions has no meaning",
                do='use how="position-mean" or how="resample" on aligned rows',
            )
        )
    if how == "resample":
        value = _resampled(model, edit, tokens)
    else:
        key = (str(site), how, over.fingerprint)
        if key not in model.measured:
            model.measured[key] = _mean(model, site, over, by_position=how == "position-mean")
        value = model.measured[key]
        if how == "position-mean" and tokens is not None:
            _aligned(site, tokens, value.shape[2 if "dst" in SITES[site.name].axes and site.head is None else 1])
    return replace(edit, value=value, over=None, how=None)


def _mean(model: Any, site: Site, over: TokenSource, *, by_position: bool) -> Tensor:
    total, count = None, 0
    for rows in over.batches(BATCH):
        if by_position and rows.padded:
            raise ShapeMismatch(
                explain(
                    "A mean at each position needs rows of one length", found=f"lengths {sorted(set(rows.lengths))}"
                )
            )
        x = model.run(rows, read=[site], logits=None)[site]
        if by_position:
            part, n = x.double().sum(0, keepdim=True), len(x)
        else:
            part, n = x[rows.mask.to(x.device)].double().sum(0), int(rows.mask.sum())
        if total is not None and total.shape != part.shape:
            raise ShapeMismatch(
                explain(
                    "A mean at each position needs rows of one length",
                    found=f"values of shape {tuple(total.shape[1:])} and {tuple(part.shape[1:])}",
                )
            )
        total, count = (part if total is None else total + part), count + n
    if total is None:
        raise BadInput(explain(f"The ablation of {site} has nothing to be measured on", found="an empty corpus"))
    return (total / count).to(model.dtype)


def _aligned(site: Site, tokens: Tokens, columns: int) -> None:
    """A value at each position fits a run whose rows have one length, that of the rows it was measured on."""
    if tokens.padded or tokens.ids.shape[1] != columns:
        raise ShapeMismatch(
            explain(
                f"A value of {site} at each position needs rows of one length in the run too",
                found=f"lengths {sorted(set(tokens.lengths))}, measured on {columns} columns",
            )
        )


def _resampled(model: Any, edit: Edit, tokens: Tokens | None) -> Tensor:
    """For each row of a run, what a seeded row of the same length computed."""
    over: TokenSource = edit.over
    if tokens is None:
        raise BadInput(explain("A resampled ablation depends on the rows it is for", do="pass the tokens"))
    pairs = "dst" in SITES[edit.site.name].axes
    donors: dict[int, list[Tensor]] = {}
    for rows in over.batches(BATCH):
        x = model.run(rows, read=[edit.site], logits=None)[edit.site]
        for row, (start, length) in enumerate(zip(rows.starts, rows.lengths, strict=True)):
            donors.setdefault(length, []).append(x[row] if pairs else x[row, start : start + length])
        if pairs and (rows.padded or tokens.padded):
            raise ShapeMismatch(explain(f"Resampling {edit.site} needs rows of one length, without padding"))
    if not donors:
        raise BadInput(explain(f"The ablation of {edit.site} has nothing to be measured on", found="an empty corpus"))
    draw, found = torch.Generator().manual_seed(edit.seed), []
    for start, length in zip(tokens.starts, tokens.lengths, strict=True):
        if length not in donors:
            raise ShapeMismatch(
                explain(
                    f"Resampling {edit.site} needs donors as long as the rows of the run",
                    found=f"a row of {length} tokens, donors of {sorted(donors)}",
                    do="give `over` rows of the same lengths",
                )
            )
        same = donors[length]
        donor = same[int(torch.randint(len(same), (1,), generator=draw))]
        if not pairs:
            wide = donor.new_zeros(tokens.ids.shape[1], *donor.shape[1:])
            wide[start : start + length] = donor
            donor = wide
        found.append(donor)
    return torch.stack(found)
