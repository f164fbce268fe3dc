"""Activation patching: put what one run computed into another, one place at a time.

1. Two ends: the metric on the run that receives (base) and on the run that gives (source). "denoise" puts clean into
   corrupt and asks what is enough to restore the behaviour; "noise" puts corrupt into clean and asks what is needed.
2. For every cell (a site, or a head of it, at one position, at a span, or everywhere) the source's value is put into
   the base. Cells of one layer and position share a pass that starts there (`Resumable`); where the source's value is
   the base's own, or nothing leads from the cell to a logit that is kept, the base is the answer and nothing runs.
3. The effect of a cell is (patched - base) / (source - base), with the mean difference of the two ends below the line:
   0 changes nothing, 1 carries all of it.
4. The null moves the base's own value as far as the source would, but in a random direction: what any change of that
   size does at that cell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, NamedTuple

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, Unsupported, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.models import Model, Resumable, Run, Tokens, apply, made_by
from digsite.patching.places import At, places
from digsite.sites import SITES, Site
from digsite.tasks import Task

_SPREADING = {"resid_pre", *(f"attn.{name}" for name in ["norm", "norm.scale", "k", "v", "k_in", "v_in", "k_rot"])}
"""Sites that reach later positions in their own layer; what comes after attention has mixed waits for the next one."""
ROWS = 512
"""Rows in one batched pass."""
DIRECTIONS = ("denoise", "noise")
NULL_EXAMPLES = 32
"""Examples on which the null is measured."""


class Cell(NamedTuple):
    """One place that is patched."""

    site: Site
    place: str
    columns: Tensor
    """[row, k] columns of each row that are patched; empty for all."""


@dataclass(frozen=True, kw_only=True)
class PatchingResult(Result):
    """How much of the behaviour each place carries, for every example.

    Attributes:
        direction: "denoise" (clean into corrupt) or "noise" (corrupt into clean).
        sites: The site of each cell.
        places: Where in the row: "all", a position's token, or a span.
        metric_name: The metric.
        unit: Its unit.
        base: The metric of the run that receives.
        source: The metric of the run that gives.
        patched: The metric with each cell patched.
        null: The effect of an equally large change in a random direction, for each cell and the first examples.
    """

    SCHEMA: ClassVar[str] = "patching.activation/1"

    direction: str
    sites: tuple[str, ...]
    places: tuple[str, ...]
    metric_name: str
    unit: str
    base: Float[Tensor, " example"]
    source: Float[Tensor, " example"]
    patched: Float[Tensor, "cell example"]
    null: Float[Tensor, "cell drawn"]

    @property
    def effects(self) -> Float[Tensor, "cell example"]:
        """Share of (source - base) that each cell brings about in each example; its mean is the effect."""
        return (self.patched - self.base) / (self.source - self.base).mean()

    def to_frame(self) -> pl.DataFrame:
        """One row a cell: effect and null with their 95 % intervals, n."""
        effects = self.effects
        low, high = bootstrap_interval(effects.T)
        null_low, null_high = bootstrap_interval(self.null.T)
        return pl.DataFrame(
            {
                "site": list(self.sites),
                "place": list(self.places),
                "effect": effects.mean(1).tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
                "null": self.null.mean(1).tolist(),
                "null_low": null_low.tolist(),
                "null_high": null_high.tolist(),
                "n": len(self.base),
            }
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        top = self.to_frame().sort(pl.col("effect").abs(), descending=True).row(0, named=True)
        where = "" if top["place"] == "all" else f" at {top['place']}"
        what = "restores" if self.direction == "denoise" else "destroys"
        return (
            f"{top['site']}{where} {what} {top['effect']:.0%} of the {self.metric_name} "
            f"(95 % {top['low']:.0%} to {top['high']:.0%}; null {top['null']:.0%}; n = {top['n']})"
        )


@method
def activation_patching(
    model: Model,
    task: Task,
    sites: str | Sequence[str],
    *,
    direction: str = "denoise",
    at: At = None,
    metric: str | None = None,
    batch_rows: int = ROWS,
    seed: int = 0,
) -> PatchingResult:
    """How much of the behaviour each place carries.

    Args:
        model: The model.
        task: Clean and corrupt pairs.
        sites: Addresses: "layers.*.resid_pre", "layers.*.attn.z[*]", "layers.2.mlp.out", … .
        direction: "denoise" or "noise".
        at: None patches all positions at once; "each" one position at a time (rows of one length); a position; the
            names of spans of the task ("IO", "S2"; "answer" is where the answer is read), one at a time.
        metric: The task's own if None.
        batch_rows: Rows in one pass.
        seed: Of the null's random directions.

    Returns:
        The effect of every cell and example, with intervals and a null.

    Raises:
        BadInput: A direction that does not exist, or rows that do not line up.
        Unsupported: A site outside the layers, or one whose effect cannot be localised.

    Units:
        Effects are shares of (source - base); `patched`, `base` and `source` are in the metric's unit.

    Source:
        Heimersheim & Nanda 2024, "How to use and interpret activation patching"; Meng et al. 2022 (causal tracing).

    Caveats:
        Denoising finds what is enough in an otherwise corrupt run, noising what is needed in an otherwise clean one;
        they agree only where there is one path. Effects of cells do not add up.
    """
    if direction not in DIRECTIONS:
        raise BadInput(explain(f"direction={direction!r} does not exist", possible=DIRECTIONS))
    clean, corrupt = task.clean, task.require_corrupt()
    base_tokens, source_tokens = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    found = [s for a in ([sites] if isinstance(sites, str) else sites) for s in model.anatomy.expand(a)]
    cells = [cell for site in found for cell in _cells(task, site, at)]
    wholes = tuple(dict.fromkeys(f"layers.{site.layer}.{site.name}" for site in found))
    with measure() as cost:
        # 1. The two ends.
        base = Resumable(model, base_tokens, keep=task.keep, also=wholes)
        source = model.run(source_tokens, read=wholes, logits=task.keep)
        ends = [task.metric(logits, metric).float() for logits in (base.logits, source.logits)]
        span = float((ends[1] - ends[0]).mean())
        if abs(span) < 1e-6:
            raise BadInput(
                explain(
                    "Clean and corrupt prompts score the same, so there is nothing to patch",
                    found=f"mean {metric or task.metric_name} {float(ends[0].mean()):.3g} for both",
                    do="use another corruption or another metric",
                )
            )
        # 2. Every cell.
        patched = _sweep(task, base, source, cells, metric=metric, batch_rows=batch_rows)
        # 4. The null, on the first examples.
        null = _null(model, task, base, source, cells, metric=metric, batch_rows=batch_rows, seed=seed) / span
    return PatchingResult(
        direction=direction,
        sites=tuple(str(cell.site) for cell in cells),
        places=tuple(cell.place for cell in cells),
        metric_name=metric or task.metric_name,
        unit=task.unit if metric is None else "",
        base=ends[0],
        source=ends[1],
        patched=patched,
        null=null,
        provenance=made_by(
            f"digsite.activation_patching(model, task, {sites!r}, direction={direction!r}, at={at!r})",
            model,
            task.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def _cells(task: Task, site: Site, at: At) -> list[Cell]:
    if not isinstance(site.layer, int):
        raise Unsupported(explain(f"{site} is not inside a layer", do="patch layers.0.resid_pre or a later site"))
    return [Cell(site, name, columns) for name, columns in places(task, at)]


def _sweep(
    task: Task,
    base: Resumable,
    source: Run | Mapping[str, Tensor],
    cells: Sequence[Cell],
    *,
    metric: str | None,
    batch_rows: int,
) -> Float[Tensor, "cell example"]:
    """The metric with each cell patched; cells that start at the same layer and column share passes."""
    n = len(base.tokens)
    scores = [task.metric(base.logits, metric).float()] * len(cells)

    def group(i: int) -> tuple[int, str, int]:
        cell = cells[i]
        return int(cell.site.layer), cell.site.name, _first_column(cell, base.tokens)  # pyright: ignore[reportArgumentType]

    order = sorted((i for i, cell in enumerate(cells) if _matters(cell, base, source)), key=group)
    batches = []
    for (layer, name, column), members in groupby(order, key=group):
        each = list(members)
        size = max(1, batch_rows // n)
        batches += [(layer, name, column, each[i : i + size]) for i in range(0, len(each), size)]
    for layer, name, column, members in track(batches, "patching"):
        start = base.start(column)
        donor = source[f"layers.{layer}.{name}"]
        edit = apply(Site(name, layer), _Exchange([cells[i] for i in members], name, donor, start, n))
        logits = base.edited([edit], layer=layer, column=column, repeats=len(members))
        for i, one in zip(members, logits.unflatten(0, (n, len(members))).transpose(0, 1), strict=True):
            scores[i] = task.metric(one, metric).float()
    return torch.stack(scores)


def _matters(cell: Cell, base: Resumable, source: Run | Mapping[str, Tensor]) -> bool:
    """Whether a patch can change a kept logit: it brings another value, and a way leads on from there."""
    layer, name = cell.site.layer, cell.site.name
    columns, width = cell.columns, base.tokens.ids.shape[1]
    last = layer == base.model.n_layers - 1 and name not in _SPREADING
    if columns.numel() and last and int(columns.max()) < width - base.keep:
        return False
    axes = SITES[name].axes
    rows = torch.arange(len(columns))[:, None]
    values = []
    for run in (base.run, source):
        value = run[f"layers.{layer}.{name}"]
        value = value.movedim(axes.index("dst"), 1) if "dst" in axes else value
        value = value[rows, columns.to(value.device)] if columns.numel() else value
        head = cell.site.head
        values.append(value[:, :, head] if isinstance(head, int) else value)
    return not torch.equal(*values)


def _first_column(cell: Cell, tokens: Tokens) -> int:
    """The first column that the cell's patch can change."""
    return int(cell.columns.min()) if cell.columns.numel() else 0


def _null(
    model: Model,
    task: Task,
    base: Resumable,
    source: Run,
    cells: Sequence[Cell],
    *,
    metric: str | None,
    batch_rows: int,
    seed: int,
) -> Float[Tensor, "cell drawn"]:
    few = torch.arange(min(len(task), NULL_EXAMPLES))
    part = task.take(few)
    rows = torch.isin(task.example_rows, few).nonzero().squeeze(1)
    tokens = Tokens(base.tokens.ids[rows], base.tokens.mask[rows], tokenizer=base.tokens.tokenizer)
    generator = torch.Generator().manual_seed(seed)
    wholes = {f"layers.{cell.site.layer}.{cell.site.name}" for cell in cells}
    own = Resumable(model, tokens, keep=task.keep, also=tuple(sorted(wholes)))
    noised = {site: moved(base.run[site][rows], source[site][rows], generator) for site in sorted(wholes)}
    there = [cell._replace(columns=cell.columns[rows]) for cell in cells]
    patched = _sweep(part, own, noised, there, metric=metric, batch_rows=batch_rows)
    return patched - part.metric(own.logits, metric).float()


def moved(base: Tensor, source: Tensor, generator: torch.Generator) -> Tensor:
    """The null of a patch: the base's value, moved as far as the source's, along a random direction.

    The direction has only entries in which the two differ at all. Shapes are any, with the vector in the last axis.
    """
    change = source - base
    noise = torch.randn(change.shape, generator=generator).to(change) * (change != 0)
    length = noise.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(noise.dtype).tiny)
    return base + noise / length * change.norm(dim=-1, keepdim=True)


class _Exchange:
    """Puts the donor's values into one pass: row e × cells + c gets cell c of example row e."""

    def __init__(self, cells: Sequence[Cell], name: str, donor: Tensor, start: int, n: int):
        self.cells, self.name, self.donor, self.start, self.n = cells, name, donor, start, n

    def __call__(self, x: Tensor) -> Tensor:
        axes = SITES[self.name].axes
        position = axes.index("dst") if "dst" in axes else 1
        x, donor = x.movedim(position, 1).clone(), self.donor.to(x).movedim(position, 1)
        rows = torch.arange(self.n, device=x.device)
        # Rotated keys keep the columns of the cache in front, whatever column the pass starts at.
        shift = 0 if x.shape[1] == donor.shape[1] else self.start
        for c, cell in enumerate(self.cells):
            mine = rows * len(self.cells) + c
            head = cell.site.head
            columns = cell.columns.to(x.device)
            if not columns.numel():
                columns = torch.arange(donor.shape[1], device=x.device).expand(self.n, -1)
            into, out = (mine[:, None], columns - shift), (rows[:, None], columns)
            if isinstance(head, int):
                x[(*into, head)] = donor[(*out, head)]
            else:
                x[into] = donor[out]
        return x.movedim(1, position)
