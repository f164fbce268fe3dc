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
    def fingerprint(self) -> str:
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
            part, n = x.double().sum(0), len(x)
        else:
            part, n = x[rows.mask.to(x.device)].double().sum(0), int(rows.mask.sum())
        if total is not None and total.shape != part.shape:
            raise ShapeMismatch(
                explain(
                    "A mean at each position needs rows of one length", found=f"{total.shape[0]} and {part.shape[0]}"
                )
            )
        total, count = (part if total is None else total + part), count + n
    if total is None:
        raise BadInput(explain(f"The ablation of {site} has nothing to be measured on", found="an empty corpus"))
    return (total / count).to(model.dtype)


def _resampled(model: Any, edit: Edit, tokens: Tokens | None) -> Tensor:
    over: TokenSource = edit.over
    if tokens is None:
        raise BadInput(explain("A resampled ablation depends on the rows it is for", do="pass the tokens"))
    found = [model.run(rows, read=[edit.site], logits=None)[edit.site] for rows in over.batches(BATCH)]
    if not found:
        raise BadInput(explain(f"The ablation of {edit.site} has nothing to be measured on", found="an empty corpus"))
    widths = {x.shape[1:] for x in found}
    pool = torch.cat(found) if len(widths) == 1 else None
    if pool is None or (edit.at is None and pool.shape[1] != tokens.ids.shape[1]):
        raise ShapeMismatch(
            explain(
                f"Resampling {edit.site} needs rows that line up",
                found=f"{sorted({w[0] for w in widths})} columns for a run of {tokens.ids.shape[1]}",
                do="give `over` rows of the same length as the run's",
            )
        )
    chosen = torch.randint(len(pool), (len(tokens),), generator=torch.Generator().manual_seed(edit.seed))
    return pool[chosen.to(pool.device)]
