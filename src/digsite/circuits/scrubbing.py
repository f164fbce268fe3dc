"""Causal scrubbing: whether a hypothesis says enough, by replacing everything of which it says that it does not matter.

A hypothesis is a graph: which edges matter, and for each writer on them which rows count as equal. If it is right,
a writer's value may be replaced by its value on any row that counts as equal, and an edge that is not in the graph may
carry the value of any row at all.

1. For each row, from the logits backwards: an edge of the graph carries its writer's value on a row drawn from those
   that count as equal for that writer; all other edges into the same component carry the values of one other row.
2. The writer's value on the drawn row is itself computed in this way, with draws of its own (the graph is unfolded into
   a tree), down to the writers into which the graph draws no edge: these have the value of the plain run.
3. Recovered = (scrubbed - scrambled) / (model - scrambled), where scrambled judges each row by the logits of another.
4. Control: the same graph with the classes of every writer dealt out to other rows. It should recover less.

Rows are drawn among those of equal length, for edges join what stands at the same position.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, Unsupported, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.circuits.written import Outputs, sites
from digsite.graphs import Edge, edge_space
from digsite.graphs.edges import LOGITS, owners
from digsite.models import Model, add, made_by
from digsite.tasks import Task

Classes = Int[Tensor, "batch *pos"] | Sequence[Hashable]


@dataclass(frozen=True)
class Hypothesis:
    """Which edges matter, and which rows count as equal for what a writer writes.

    Attributes:
        edges: (writer, reader), as `EdgeSpace` names them.
        classes: For a writer, the class of each row (anything hashable, or a tensor [row]), or of each row and column
            (a tensor [row, column]; rows are padded on the left). A writer without classes keeps its own row.
    """

    edges: Sequence[Edge]
    classes: Mapping[str, Classes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScrubbingResult(Result):
    """How much of the behaviour a hypothesis recovers.

    Attributes:
        task: The task.
        edges: The hypothesis' edges, as "writer → reader".
        scrubbed_writers: The writers that were given classes.
        metric_name: The metric.
        unit: Its unit.
        model: The metric of the model as it is.
        scrambled: The metric with the logits of another row, for each draw.
        scrubbed: The metric under the hypothesis, for each draw.
        control: The same with the classes dealt out to other rows.
    """

    SCHEMA: ClassVar[str] = "circuits.scrubbing/1"

    task: str
    edges: tuple[str, ...]
    scrubbed_writers: tuple[str, ...]
    metric_name: str
    unit: str
    model: Float[Tensor, " example"]
    scrambled: Float[Tensor, "draw example"]
    scrubbed: Float[Tensor, "draw example"]
    control: Float[Tensor, "draw example"]

    def recovered(self, values: Float[Tensor, "draw example"]) -> Float[Tensor, " example"]:
        """A metric as a share of the way from scrambled to the model, for each example."""
        none, every = self.scrambled.mean(), self.model.mean()
        return (values.mean(0) - none) / (every - none)

    def to_frame(self) -> pl.DataFrame:
        """The hypothesis, its control and both ends: metric, recovered share with its 95 % interval, n."""
        rows = []
        for name, values in (
            ("model", self.model.unsqueeze(0)),
            ("hypothesis", self.scrubbed),
            ("classes dealt out anew", self.control),
            ("scrambled", self.scrambled),
        ):
            share = self.recovered(values)
            low, high = bootstrap_interval(share)
            rows.append((name, float(values.mean()), float(share.mean()), float(low), float(high), len(share)))
        return pl.DataFrame(rows, schema=["run", self.metric_name, "recovered", "low", "high", "n"], orient="row")

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        _, said, control, _ = self.to_frame().iter_rows(named=True)
        failed = ", so the classes say nothing that chance does not" if control["high"] >= said["low"] else ""
        return (
            f"A hypothesis of {len(self.edges)} edges recovers {said['recovered']:.0%} of the {self.metric_name} of "
            f"{self.task} (95 % {said['low']:.0%} to {said['high']:.0%}; with its classes dealt out anew "
            f"{control['recovered']:.0%}{failed}; n = {said['n']})"
        )


@method
def causal_scrubbing(
    model: Model,
    task: Task,
    hypothesis: Hypothesis,
    *,
    draws: int = 10,
    metric: str | None = None,
    seed: int = 0,
) -> ScrubbingResult:
    """How much of a behaviour survives when everything is replaced of which a hypothesis says that it does not matter.

    Args:
        model: The model.
        task: Its clean prompts are the rows; corrupt ones are not needed. Draws are made among rows of equal length, so
            there should be many of each.
        hypothesis: Edges that matter, and classes of rows.
        draws: How often rows are drawn.
        metric: The task's own if None.
        seed: Of all draws.

    Raises:
        BadInput: The hypothesis is not connected with the logits, has no classes, or classes that do not fit the rows.
        NoSuchSite: An edge that the model does not have.
        Unsupported: Answers of several tokens, or a model that is not a sum of heads and MLPs that read one stream.

    Units:
        Shares of (model - scrambled); `scrubbed`, `control` and both ends are in the metric's unit.

    Source:
        Chan et al. 2022, "Causal Scrubbing". There every row has an unfolded tree of its own; here the scrubbed values
        of all rows are computed together and then drawn from, so two rows that draw the same third share its draws.
        The mean is the same.

    Caveats:
        A hypothesis that keeps everything recovers everything: it is the coarse classes that make a high share worth
        something. Classes with one row each keep that row.
    """
    if task.keep > 1:
        raise Unsupported(explain("Causal scrubbing takes one-token answers", found=f"answers of {task.keep} tokens"))
    scrub = _Scrub(model, task, hypothesis, metric=metric, seed=seed)
    with measure() as cost:
        clean = model.run(task.clean, logits=1).logits
        scores: list[list[Tensor]] = [[], [], []]
        for _ in track(range(draws), "causal scrubbing"):
            scores[0].append(scrub.score(clean[scrub.any_row()]))
            scores[1].append(scrub.score(scrub.logits(scrub.classes)))
            scores[2].append(scrub.score(scrub.logits(scrub.dealt())))
    scrambled, scrubbed, control = (torch.stack(each).cpu() for each in scores)
    return ScrubbingResult(
        task=task.name,
        edges=tuple(f"{writer} → {reader}" for writer, reader in hypothesis.edges),
        scrubbed_writers=tuple(hypothesis.classes),
        metric_name=metric or task.metric_name,
        unit=task.unit if metric is None else "",
        model=scrub.score(clean).cpu(),
        scrambled=scrambled,
        scrubbed=scrubbed,
        control=control,
        provenance=made_by(
            "digsite.circuits.causal_scrubbing(model, task, hypothesis)", model, task.fingerprint, seed=seed
        ),
        cost=cost,
    )


class _Scrub:
    """The rows, what every writer wrote on them, and draws among them."""

    def __init__(self, model: Model, task: Task, hypothesis: Hypothesis, *, metric: str | None, seed: int):
        self.model, self.task, self.metric = model, task, metric
        self.tokens, self.space, self.outputs = task.clean, edge_space(model), Outputs(model)
        self.matters = self.space.flags(hypothesis.edges)
        self.classes = {writer: _codes(one) for writer, one in hypothesis.classes.items()}
        self._check()
        self.generator = torch.Generator().manual_seed(seed)
        lengths = torch.tensor(self.tokens.lengths)
        self.alike = lengths[:, None] == lengths
        self.plain = self.outputs.expand(self.outputs.of(model.run(self.tokens, read=sites(model), logits=None)))

    def score(self, logits: Tensor) -> Float[Tensor, " example"]:
        """The metric of each row's answers."""
        return self.task.metric(logits, self.metric).float()

    def logits(self, classes: Mapping[str, Tensor]) -> Float[Tensor, "batch columns vocab"]:
        """1. Logits of every row when all that reaches them is drawn."""
        edit = add(f"layers.{self.model.n_layers - 1}.resid_post", self._change(LOGITS, self.any_row(), classes))
        return self.model.run(self.tokens, edits=[edit], logits=1).logits

    def _change(self, reader: str, other: Tensor, classes: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
        """What a reader reads under the hypothesis, minus what it reads in the plain run."""
        j = self.space.readers.index(reader)
        before = self.space.before[j]
        matter = self.matters[:before, j]
        read = self.plain[other][:, :before][:, ~matter].sum(1)
        for writer in matter.nonzero().flatten().tolist():
            read = read + self._drawn(writer, classes)
        return read - self.plain[:, :before].sum(1)

    def _drawn(self, writer: int, classes: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
        """What a writer writes on rows that count as equal."""
        values = self._value(writer, classes)
        own = classes.get(self.space.writers[writer])
        if own is None:
            return values
        if own.ndim == 1:
            return values[self._pick(self.alike & (own[:, None] == own))]
        columns = range(values.shape[1])
        rows = torch.stack([self._pick(self.alike & (own[:, c, None] == own[:, c])) for c in columns], 1)
        return values[rows, torch.arange(values.shape[1])]

    def _value(self, writer: int, classes: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
        """2. What a writer writes on every row when what it reads is drawn."""
        name, readers = self.space.writers[writer], self.space.inputs[writer]
        if not bool(self.matters[:, readers].any()):
            return self.plain[:, writer]
        other = self.any_row()
        names = [self.space.readers[j] for j in readers.nonzero().flatten().tolist()]
        edits = [add(reader, self._change(reader, other, classes)) for reader in names]
        layer = int(name.split(".")[1])
        if name.endswith("mlp.out"):
            return self.model.run(self.tokens, read=[name], edits=edits, logits=None)[name]
        site, head = f"layers.{layer}.attn.z", int(name[name.index("[") + 1 : -1])
        z = self.model.run(self.tokens, read=[site], edits=edits, logits=None)[site]
        return self.outputs.heads(layer, self.outputs.factor(layer, z))[:, head]

    # -- draws -------------------------------------------------------------------------------------------------------
    def any_row(self) -> Int[Tensor, " batch"]:
        """For each row, some row of its length."""
        return self._pick(self.alike)

    def dealt(self) -> dict[str, Tensor]:
        """4. The classes of every writer, dealt out to other rows of the same length."""
        return {writer: own[self._permutation()] for writer, own in self.classes.items()}

    def _permutation(self) -> Int[Tensor, " batch"]:
        order = torch.arange(len(self.alike))
        for group in self._groups():
            order[group] = group[torch.randperm(len(group), generator=self.generator)]
        return order

    def _groups(self) -> Iterator[Int[Tensor, " batch"]]:
        lengths = torch.tensor(self.tokens.lengths)
        for length in lengths.unique():
            yield (lengths == length).nonzero().flatten()

    def _pick(self, allowed: Tensor) -> Int[Tensor, " batch"]:
        return torch.multinomial(allowed.float(), 1, generator=self.generator).squeeze(1)

    # -- the hypothesis ----------------------------------------------------------------------------------------------
    def _check(self) -> None:
        speaks = {name for name, used in zip(self.space.writers, self.matters.any(1).tolist(), strict=True) if used}
        for reader, used in zip(self.space.readers, self.matters.any(0).tolist(), strict=True):
            if used and reader != LOGITS and not speaks & set(owners(reader, self.space.groups)):
                raise BadInput(
                    explain(f"Nothing in the hypothesis goes on from {reader}", do="add an edge, or leave it")
                )
        if not bool(self.matters[:, -1].any()) or not self.classes:
            raise BadInput(
                explain(
                    "A hypothesis needs an edge into the logits, and classes of at least one writer that could be wrong"
                )
            )
        shape = tuple(self.tokens.ids.shape)
        for writer, own in self.classes.items():
            if writer not in speaks:
                raise BadInput(explain(f"{writer} has classes and no edge", possible=sorted(speaks), near=writer))
            if tuple(own.shape) not in (shape, shape[:1]):
                raise BadInput(
                    explain(
                        f"The classes of {writer} do not fit the rows",
                        found=f"{tuple(own.shape)}",
                        possible=f"{shape[:1]} or {shape}",
                    )
                )


def _codes(classes: Classes) -> Int[Tensor, "batch *pos"]:
    """Classes as numbers."""
    if isinstance(classes, Tensor):
        return classes
    known = {one: i for i, one in enumerate(dict.fromkeys(classes))}
    return torch.tensor([known[one] for one in classes])
