"""Path patching: what a writer tells a reader, and nothing else of what it says, taken from the other prompt.

1. Two ends: the metric on the run that receives (base) and on the run that gives (source). "noise" puts corrupt into
   clean and asks what is needed, "denoise" clean into corrupt and asks what is enough.
2. "direct": on the base, the edges from one sender to all receivers carry what the sender writes on the source. Nothing
   else is changed by hand; what follows from it downstream of the receivers is live.
3. "mlps": the sender also reaches the receivers through MLPs, but not through heads. First the base runs with every MLP
   reading the sender's source value, its own live MLPs before it, and heads as they were: what the MLPs write now. Then
   the base runs with the edges from sender and MLPs to the receivers carrying these values.
4. The effect of a sender is (patched - base) / (source - base), the mean difference of the ends below the line.
5. The null moves what the sender writes as far as the source does, in a random direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, NoSuchSite, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.circuits.attribution import BATCH
from digsite.circuits.mux import EdgeMux, Pass
from digsite.circuits.written import Outputs, Written, sites
from digsite.graphs import EdgeSpace, edge_space
from digsite.graphs.edges import LOGITS
from digsite.models import Model, made_by
from digsite.patching import moved
from digsite.patching.places import lined_up
from digsite.tasks import Task

DIRECTIONS = ("noise", "denoise")
THROUGH = ("direct", "mlps")


@dataclass(frozen=True, kw_only=True)
class PathPatching(Result):
    """How much of the behaviour goes from each sender to the receivers, for every example.

    Attributes:
        direction: "noise" (corrupt into clean) or "denoise" (clean into corrupt).
        through: "direct" or "mlps".
        senders: Writers.
        receivers: Readers; all of them are patched together.
        metric_name: The metric.
        unit: Its unit.
        base: The metric of the run that receives.
        source: The metric of the run that gives.
        patched: The metric with the paths from each sender patched.
        null: The same with an equally long change in a random direction.
    """

    SCHEMA: ClassVar[str] = "circuits.paths/1"

    direction: str
    through: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    metric_name: str
    unit: str
    base: Float[Tensor, " example"]
    source: Float[Tensor, " example"]
    patched: Float[Tensor, "sender example"]
    null: Float[Tensor, "sender example"]

    def share(self, patched: Float[Tensor, "sender example"]) -> Float[Tensor, "sender example"]:
        """Share of (source - base) in each example."""
        return (patched - self.base) / (self.source - self.base).mean()

    def to_frame(self) -> pl.DataFrame:
        """One row a sender, the largest effect first: effect and null with their 95 % intervals, n."""
        effects, null = self.share(self.patched), self.share(self.null)
        (low, high), (null_low, null_high) = bootstrap_interval(effects.T), bootstrap_interval(null.T)
        return pl.DataFrame(
            {
                "sender": list(self.senders),
                "effect": effects.mean(1).tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
                "null": null.mean(1).tolist(),
                "null_low": null_low.tolist(),
                "null_high": null_high.tolist(),
                "n": len(self.base),
            }
        ).sort(pl.col("effect").abs(), descending=True)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        top = self.to_frame().row(0, named=True)
        to = self.receivers[0] if len(self.receivers) == 1 else f"{len(self.receivers)} receivers"
        way = "directly" if self.through == "direct" else "directly and through MLPs"
        what = "restores" if self.direction == "denoise" else "destroys"
        failed = ", which is no more than its null" if abs(top["effect"]) <= abs(top["null"]) else ""
        return (
            f"What {top['sender']} tells {to} {way} {what} {top['effect']:.0%} of the {self.metric_name} "
            f"(95 % {top['low']:.0%} to {top['high']:.0%}; null {top['null']:.0%}{failed}; n = {top['n']})"
        )


@method
def path_patching(
    model: Model,
    task: Task,
    senders: str | Sequence[str] | None = None,
    receivers: str | Sequence[str] = LOGITS,
    *,
    direction: str = "noise",
    through: str = "direct",
    metric: str | None = None,
    batch: int = BATCH,
    seed: int = 0,
) -> PathPatching:
    """How much of the behaviour goes from each sender to a set of receivers.

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        senders: Writers, one at a time: "layers.2.attn.result[3]", "layers.*.mlp.out", "embed"; None for all that the
            receivers can read.
        receivers: Readers, all together: "logits", "layers.3.attn.q_in[*]", "layers.3.mlp.in".
        direction: "noise" or "denoise".
        through: "direct" takes the edges alone; "mlps" also ways over MLPs between sender and receivers.
        metric: The task's own if None.
        batch: Examples in one pass.
        seed: Of the null's random directions.

    Raises:
        BadInput: A direction or way that does not exist, prompts that do not line up or score the same, or a sender
            that none of the receivers can read.
        NoSuchSite: No such sender or receiver.
        Unsupported: The model is not a sum of heads and MLPs that read one stream.

    Units:
        Effects are shares of (source - base); `patched`, `base` and `source` are in the metric's unit.

    Source:
        Wang et al. 2022, "Interpretability in the Wild" (arXiv:2211.00593), and Goldowsky-Dill et al. 2023
        (arXiv:2304.05969). Where receivers stand in several layers those authors compute all their inputs before any of
        them is patched; here an earlier receiver's change reaches a later one.

    Caveats:
        Effects of senders do not add up. The null has the length of the change and not its direction: a sender that
        writes far from what the receivers read has none either way.
    """
    for asked, possible in ((direction, DIRECTIONS), (through, THROUGH)):
        if asked not in possible:
            raise BadInput(explain(f"{asked!r} is not a way to patch paths", possible=possible, near=asked))
    lined_up(task)
    space = edge_space(model)
    to = _named(model, receivers, space.readers, "reads")
    given = space.writers if senders is None else _named(model, senders, space.writers, "writes to")
    places = [space.readers.index(name) for name in to]
    heard = [name for name in given if any(space.real[space.writers.index(name), j] for j in places)]
    if not heard or (senders is not None and len(heard) < len(given)):
        deaf = next(name for name in given if name not in heard)
        raise BadInput(explain(f"{deaf} comes after every receiver", found=", ".join(to), do="leave it out"))
    generator = torch.Generator().manual_seed(seed)
    parts = []
    with measure() as cost:
        for start in track(range(0, len(task), batch), "path patching"):
            part = task.take(slice(start, start + batch))
            paths = _Paths(model, part, space, places, direction=direction, through=through, metric=metric)
            noised = paths.base.map(lambda b, s: moved(b, s, generator), paths.source)
            patched = [paths.patched([space.writers.index(name) for name in heard], x) for x in (paths.source, noised)]
            parts.append((*paths.ends, *patched))
    base, source, real, null = (torch.cat(each, -1).cpu() for each in zip(*parts, strict=True))
    if abs(float((source - base).mean())) < 1e-6:
        raise BadInput(explain("Clean and corrupt prompts score the same, so no path carries a share of a difference"))
    return PathPatching(
        direction=direction,
        through=through,
        senders=tuple(heard),
        receivers=to,
        metric_name=metric or task.metric_name,
        unit=task.unit if metric is None else "",
        base=base,
        source=source,
        patched=real,
        null=null,
        provenance=made_by(
            f"digsite.circuits.path_patching(model, task, {senders!r}, {receivers!r}, direction={direction!r}, "
            f"through={through!r})",
            model,
            task.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


class _Paths:
    """Some examples with both ends, between which paths are patched."""

    def __init__(
        self,
        model: Model,
        task: Task,
        space: EdgeSpace,
        receivers: list[int],
        *,
        direction: str,
        through: str,
        metric: str | None,
    ):
        self.model, self.task, self.space, self.receivers = model, task, space, receivers
        self.through, self.metric = through, metric
        ends = task.clean, task.require_corrupt()
        tokens, other = ends if direction == "noise" else ends[::-1]
        # 1. The two ends.
        run = model.run(other, read=sites(model), logits=task.keep)
        self.source = Outputs(model).of(run)
        self.mux = EdgeMux(model, tokens, self.source, keep=task.keep)
        self.base = self.mux.live
        self.ends = [task.metric(logits, metric).float() for logits in (self.mux.logits, run.logits)]
        self.mlps = torch.tensor([name.endswith("mlp.out") for name in space.writers])
        self.into_mlps = torch.tensor([name.endswith("mlp.in") for name in space.readers])

    def patched(self, senders: list[int], source: Written) -> Float[Tensor, "sender example"]:
        """The metric with the paths from each sender patched."""
        if self.through == "direct":
            masks = torch.stack([self._into_receivers([sender]) for sender in senders])
            return self._scores(self.mux.with_donor(source), masks)
        found = []
        for sender in senders:
            donor = self._through_mlps(sender, source)
            mask = self._into_receivers([sender, *self.mlps.nonzero().flatten().tolist()])
            found.append(self._scores(self.mux.with_donor(donor), mask.unsqueeze(0)))
        return torch.cat(found)

    def _through_mlps(self, sender: int, source: Written) -> Written:
        """3. What is written when MLPs alone hear what the sender wrote on the source."""
        donor = chosen(self.space, self.base, source, sender)
        heard = ~self.mlps
        heard[sender] = True
        mask = heard.unsqueeze(1) & self.into_mlps & self.space.real
        edits = Pass(self.mux.with_donor(donor), mask.unsqueeze(0), layer=0, column=0).edits()
        run = self.model.run(self.mux.tokens, read=["layers.*.mlp.out"], edits=edits, logits=1)
        mlp = tuple(run[f"layers.{i}.mlp.out"] for i in range(self.model.n_layers))
        # The sender itself, if it is an MLP, says what it says on the source.
        return chosen(self.space, replace(donor, mlp=mlp), source, sender)

    def _into_receivers(self, writers: list[int]) -> Tensor:
        mask = torch.zeros_like(self.space.real)
        mask[torch.tensor(writers)[:, None], torch.tensor(self.receivers)] = True
        return mask & self.space.real

    def _scores(self, mux: EdgeMux, masks: Tensor) -> Float[Tensor, "sender example"]:
        return mux.scored(masks, lambda logits: self.task.metric_of_many(logits, self.metric), len(self.task))


def chosen(space: EdgeSpace, base: Written, source: Written, writer: int) -> Written:
    """What one run wrote, but for one writer what another did."""
    name = space.writers[writer]
    if not name.startswith("layers."):
        return replace(base, embed=_with(base.embed, writer, source.embed[writer]))
    layer = int(name.split(".")[1])
    if name.endswith("mlp.out"):
        return replace(base, mlp=_with(base.mlp, layer, source.mlp[layer]))
    head = int(name[name.index("[") + 1 : -1])
    z = base.z[layer].clone()
    z[:, :, head] = source.z[layer][:, :, head]
    return replace(base, z=_with(base.z, layer, z))


def _with(parts: tuple[Tensor, ...], index: int, one: Tensor) -> tuple[Tensor, ...]:
    return (*parts[:index], one, *parts[index + 1 :])


def _named(model: Model, asked: str | Sequence[str], known: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Names of writers or readers, wildcards taken apart."""
    found: list[str] = []
    for name in [asked] if isinstance(asked, str) else asked:
        found += [name] if name in known else [str(site) for site in model.anatomy.expand(name)]
    strange = next((name for name in found if name not in known), None)
    if strange is not None or not found:
        raise NoSuchSite(explain(f"Nothing called {strange!r} {what} the stream", possible=known, near=str(strange)))
    return tuple(dict.fromkeys(found))
