"""Where can a label be read? A probe at every site and position, from one reading of the texts.

1. Read all sites at all positions in one pass over the texts. A cell is a site at a position.
2. Split: half of the groups are fitted on. What is held out is split again: one half *chooses* the best cell, the
   other *judges* it, so that the number of the best cell is not the luckiest of many.
3. Fit the probes of all cells together, those of shuffled labels with them (`solving`), and score what is held out.
4. The null goes the same way: under each shuffled labelling the best cell is chosen on one half, judged on the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite._core.numerics import require_finite
from digsite._core.progress import track
from digsite._core.ranking import auroc, auroc_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction
from digsite.directions.labelled import read_at, several, shuffled, split, yes_or_no
from digsite.directions.probes.probe import check_sides
from digsite.directions.probes.solving import SOLVERS, solve
from digsite.directions.texts import by_answer, clean_or_corrupt, two_answers
from digsite.models import Model, Tokens, made_by
from digsite.sites import Site
from digsite.tasks import Task

At = int | Sequence[int] | Mapping[str, Int[Tensor, " batch"]] | None
STREAM = "layers.*.resid_post"
"""Where a sweep looks unless told otherwise: the stream after every layer."""


class Best(NamedTuple):
    """The best cell of a sweep, chosen on one half of what was held out and judged on the other."""

    cell: int
    auroc: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ProbeSweep(Result):
    """How well a label can be read at every site and position.

    Attributes:
        label: What the label says.
        fit: How the probes were fitted.
        sites: The site of each cell.
        places: The position of each cell, by its name.
        shown: For each name of a position in turn, the token there if it is the same in all texts, else "…".
        vectors: What is written, cell by cell.
        readers: What reads.
        biases: Added to the readings.
        trained: How many examples were fitted on.
        labels: Of the held-out examples.
        chooses: Which of them choose the best cell; the others judge it.
        scores: Of the held-out examples.
        null: AUROC on all held-out examples with shuffled labels.
        null_best: AUROC of the best cell with shuffled labels, chosen and judged like the claim.
    """

    SCHEMA: ClassVar[str] = "directions.probe_sweep/1"

    label: str
    fit: str
    sites: tuple[str, ...]
    places: tuple[str, ...]
    shown: tuple[str, ...]
    vectors: Float[Tensor, "cell width"]
    readers: Float[Tensor, "cell width"]
    biases: Float[Tensor, " cell"]
    trained: int
    labels: Bool[Tensor, " example"]
    chooses: Bool[Tensor, " example"]
    scores: Float[Tensor, "cell example"]
    null: Float[Tensor, "cell draw"]
    null_best: Float[Tensor, " draw"]

    @property
    def auroc(self) -> Float[Tensor, " cell"]:
        """Of every cell, on all held-out examples."""
        return torch.from_numpy(auroc(self.scores.numpy(), self.labels.numpy()))

    @property
    def best(self) -> Best:
        """The cell that the choosing half ranks first, and what the judging half says of it."""
        labels, chooses, scores = self.labels.numpy(), self.chooses.numpy(), self.scores.numpy()
        cell = int(auroc(scores[:, chooses], labels[chooses]).argmax())
        judged, known = scores[cell, ~chooses], labels[~chooses]
        return Best(cell, float(auroc(judged, known)), *auroc_interval(judged, known))

    def direction(self, cell: int | None = None) -> Direction:
        """The probe of a cell, the best one unless named, as a direction at its site."""
        cell = self.best.cell if cell is None else cell
        vector, reader = self.vectors[cell], self.readers[cell]
        return Direction(
            site=Site.parse(self.sites[cell]),
            vector=vector,
            reader=None if torch.equal(vector, reader) else reader,
            bias=float(self.biases[cell]),
            name=self.label,
            how=f"{self.fit} probe at position {self.places[cell]}",
            provenance=self.provenance,
        )

    def to_frame(self, *, resamples: int = 200, seed: int = 0) -> pl.DataFrame:
        """One row a cell: AUROC on all held-out examples with its 95 % bootstrap interval, and the null's largest."""
        values, labels = self.auroc, self.labels.numpy()
        ends = [auroc_interval(one.numpy(), labels, resamples=resamples, seed=seed) for one in self.scores]
        some = self.null.shape[1] > 0
        return pl.DataFrame(
            {
                "site": list(self.sites),
                "place": list(self.places),
                "auroc": values.tolist(),
                "low": [low for low, _ in ends],
                "high": [high for _, high in ends],
                "null_mean": self.null.mean(1).tolist() if some else None,
                "null_high": self.null.quantile(0.975, 1).tolist() if some else None,
                "n": len(labels),
            }
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        best = self.best
        where = f"{self.sites[best.cell]} at position {self.places[best.cell]}"
        said, lost = "", ""
        if len(self.null_best):
            reached = float(self.null_best.quantile(0.95))
            said = f"; shuffled labels, with a best cell chosen likewise, reach {reached:.2f} (95 %)"
            lost = ", so it is not shown that the label can be read anywhere" if reached >= best.low else ""
        return (
            f"{self.label}: read best at {where}, with an AUROC of {best.auroc:.2f} (95 % {best.low:.2f} to "
            f"{best.high:.2f}) by {self.fit} on the half that did not choose the cell{said}{lost}; "
            f"{len(self.sites)} cells, n = {int((~self.chooses).sum())} judging examples"
        )


@method
def probe_sweep(
    model: Model,
    tokens: Tokens,
    labels: Sequence[bool] | Bool[Tensor, " batch"],
    sites: str | Site | Iterable[str | Site] = STREAM,
    *,
    at: At = None,
    groups: Sequence[int] | Int[Tensor, " batch"] | None = None,
    name: str = "label",
    fit: str = "logistic",
    draws: int = 20,
    held_out: float = 0.5,
    batch: int = 32,
    seed: int = 0,
) -> ProbeSweep:
    """At which sites and positions a label can be read, judged on texts that were held out.

    Args:
        model: The model.
        tokens: The texts.
        labels: Yes or no for each text.
        sites: Where they are read, wildcards allowed; all of one width.
        at: Positions, absolute among a row's real tokens; or names with the position that each has in every text; None
            for every position (texts of one length).
        groups: Texts of one number lie on one side of a split (the two prompts of a pair); None where each is alone.
        name: What the label says.
        fit: A name of `SOLVERS`.
        draws: How often labels are shuffled.
        held_out: The share of the groups that is held out; half of that chooses, half judges.
        batch: Texts in one pass.
        seed: Of the splits and the null.

    Raises:
        BadInput: No such fit, sites of several widths, texts of several lengths where every position is asked for, a
            position outside a text, one class only, too few examples of a label.
        NoSuchSite: The model lacks a site.
        NotFinite: An activation is NaN or infinite.

    Units: AUROC, a fraction; 0.5 says nothing.

    Source: Alain and Bengio 2016, arXiv 1610.01644, for probes at every layer; Hewitt and Liang 2019, arXiv
    1909.03368, for the control by shuffled labels.

    Caveats:
        The AUROC of a cell in the table is one of many: of the best, only `best` is judged apart.
        A cell in which all examples are the same has 0.5. Where prompts differ in a word, that word's position is read
        perfectly at the embedding: a sweep shows where information is, not that the model works it out there.
    """
    if fit not in SOLVERS:
        do = "directions.probes.probe takes any fit, at one site"
        raise BadInput(explain(f"No fit {fit!r} is solved for many cells", possible=list(SOLVERS), near=fit, do=do))
    known = yes_or_no(labels)
    alone = None if groups is None else torch.as_tensor(groups)
    if known.shape != (len(tokens),) or (alone is not None and len(alone) != len(tokens)):
        found = f"labels of shape {list(known.shape)}, {len(tokens)} texts"
        raise BadInput(explain("Every text has a label, and a group where there are groups", found=found))
    columns = [str(site) for one in several(sites) for site in model.anatomy.expand(one)]
    names, positions = _positions(tokens, at)
    with measure() as cost, torch.no_grad():
        # 2.
        train, test = split(known, alone, held_out, seed)
        check_sides(known, train, test)
        halves = split(known[test], None if alone is None else alone[test], 0.5, seed + 1)
        check_sides(known[test], *halves, names=("choose", "judge"))
        chooses = torch.isin(torch.arange(len(test)), halves[0])
        parts = (train, test[halves[0]], test[halves[1]])
        null = shuffled(known, alone, draws, np.random.default_rng([seed, 1]), *parts)
        mixed = torch.cat([known[None], null])
        # 1. and 3.
        read = _read(model, tokens, columns, positions, batch)
        found = [_fitted(fit, column, x, mixed, train, test) for column, x in track(read.items(), "fitting probes")]
        scores = torch.cat([cells.scores for cells in found])
        # 4.
        by_chance, judged = scores[:, 1:].numpy(), null[:, test].numpy()
        choosing, judging = (auroc(by_chance[..., half], judged[:, half]) for half in map(Tensor.numpy, halves))
    return ProbeSweep(
        label=name,
        fit=fit,
        sites=tuple(column for column in columns for _ in names),
        places=tuple(names) * len(columns),
        shown=_shown(tokens, positions),
        vectors=torch.cat([cells.vectors for cells in found]),
        readers=torch.cat([cells.readers for cells in found]),
        biases=torch.cat([cells.biases for cells in found]),
        trained=len(train),
        labels=known[test],
        chooses=chooses,
        scores=scores[:, 0].contiguous(),
        null=torch.from_numpy(auroc(by_chance, judged)),
        null_best=torch.from_numpy(judging[choosing.argmax(0), np.arange(draws)]),
        provenance=made_by(
            f"digsite.directions.probes.probe_sweep(model, tokens, labels, {columns}, at={names}, fit={fit!r}, "
            f"seed={seed})",
            model,
            tokens.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


@method
def task_sweep(
    model: Model,
    task: Task,
    sites: str | Site | Iterable[str | Site] = STREAM,
    *,
    by: Literal["answer", "clean"] | None = None,
    at: Sequence[str] | None = None,
    fit: str = "logistic",
    draws: int = 20,
    seed: int = 0,
) -> ProbeSweep:
    """`probe_sweep` on the prompts of a task, labelled by the answer they ask for or by whether they are clean.

    Args:
        model: The model.
        task: With two answers, or with clean and corrupt prompts in pairs.
        sites: Where they are read.
        by: "answer" tells clean prompts apart by their answer, of which there must be two (she, he); "clean" tells
            clean prompts from corrupt ones. None takes the answer where there are two.
        at: Spans of the task (the last token of each), "answer", or positions as text ("3", "-1"); None for every
            position where all prompts are as long, else for all spans and "answer".
        fit: A name of `SOLVERS`.
        draws: How often labels are shuffled.
        seed: Of the splits and the null.

    Raises:
        BadInput: No two answers, no corrupt prompts, no such span, a span that is empty in a prompt; and as
            `probe_sweep`.
    """
    by = by or ("answer" if two_answers(task) else "clean")
    name, tokens, labels, groups = by_answer(task) if by == "answer" else clean_or_corrupt(task)
    copies = len(tokens) // len(task.clean)
    places = {name: where.repeat(copies) for name, where in task_places(task, at).items()}
    return probe_sweep(
        model, tokens, labels, sites, at=places, groups=groups, name=name, fit=fit, draws=draws, seed=seed
    )


def task_places(task: Task, at: Sequence[str] | None = None) -> dict[str, Int[Tensor, " batch"]]:
    """Places in the prompts of a task, by name, with the position that each has in every prompt.

    Args:
        task: The task.
        at: Spans (the last token of each), "answer", or positions as text ("3", "-1"); None for every position where
            all prompts are as long, else for all spans and "answer".

    Raises:
        BadInput: No such span, or one that is empty in a prompt.
    """
    if at is None:
        lengths = set(task.clean.lengths)
        full = [name for name in task.spans if bool((task.row_spans(name).diff(dim=1) > 0).all())]
        at = [*full, "answer"] if len(lengths) > 1 else [str(position) for position in range(lengths.pop())]
    return {name: _place(task, name) for name in at}


# -- steps -----------------------------------------------------------------------------------------------------------
class _Cells(NamedTuple):
    """The cells of one site."""

    vectors: Float[Tensor, "cell width"]
    readers: Float[Tensor, "cell width"]
    biases: Float[Tensor, " cell"]
    scores: Float[Tensor, "cell draw example"]


def _positions(tokens: Tokens, at: At) -> tuple[list[str], Int[Tensor, "batch k"]]:
    """Names of positions, and the position of each in every text, counted from its start."""
    lengths = torch.tensor(tokens.lengths)
    if at is None:
        if len(set(tokens.lengths)) > 1:
            found = f"{min(tokens.lengths)} to {max(tokens.lengths)} tokens"
            do = "give positions (at=-1), or names with the position in each text (at={'verb': positions})"
            raise BadInput(explain("Every position is only the same place in texts of one length", found=found, do=do))
        at = range(tokens.lengths[0])
    if isinstance(at, int):
        at = [at]
    if not isinstance(at, Mapping):
        at = {str(position): torch.full_like(lengths, position) for position in at}
    if not at:
        raise BadInput(explain("A sweep needs one position or more"))
    for name, where in at.items():
        if where.shape != lengths.shape:
            found = f"{list(where.shape)} for {len(lengths)} texts"
            raise BadInput(explain(f"The place {name} has a position in every text", found=found))
    tokens.places(torch.stack(list(at.values()), 1))  # raises what lies outside a text
    found = torch.stack([torch.where(where < 0, where + lengths, where) for where in at.values()], 1)
    return list(at), found


def _place(task: Task, name: str) -> Int[Tensor, " batch"]:
    """The position of a span's last token in each prompt; of the answer; or a number."""
    if name.lstrip("-").isdigit():
        return torch.full((len(task.clean),), int(name))
    if name == "answer":
        return torch.full((len(task.clean),), task.answer_position)
    spans = task.row_spans(name)
    if bool((spans[:, 0] == spans[:, 1]).any()):
        without = int((spans[:, 0] == spans[:, 1]).sum())
        do = "take the examples that have it"
        raise BadInput(explain(f"The span {name} is empty in some prompts", found=f"{without} prompts", do=do))
    return spans[:, 1] - 1


def _shown(tokens: Tokens, positions: Int[Tensor, "batch k"]) -> tuple[str, ...]:
    """The token at each position, where all texts have the same."""
    shown = []
    for where in positions.unbind(1):
        words = {row[at] for row, at in zip(tokens.strings, where.tolist(), strict=True)}
        shown.append(words.pop() if len(words) == 1 else "…")
    return tuple(shown)


def _read(
    model: Model, tokens: Tokens, columns: Sequence[str], positions: Int[Tensor, "batch k"], batch: int
) -> dict[str, Float[Tensor, "k batch width"]]:
    """1. All sites at all positions, from one pass over the texts."""
    texts, k = positions.shape
    rows = torch.arange(texts).repeat_interleave(k)
    places = positions.flatten() + torch.tensor(tokens.starts).repeat_interleave(k)
    found = read_at(model, tokens, columns, rows, places, batch=batch)
    if len({x.shape[1] for x in found.values()}) > 1:
        widths = ", ".join(f"{name} {x.shape[1]}" for name, x in list(found.items())[:6])
        raise ShapeMismatch(explain("The sites of one sweep have one width", found=widths, do="sweep them one by one"))
    return {name: x.unflatten(0, (texts, k)).transpose(0, 1) for name, x in found.items()}


def _fitted(fit: str, column: str, x: Tensor, mixed: Tensor, train: Tensor, test: Tensor) -> _Cells:
    """3. The probes of one site at all positions, under all labellings."""
    x = require_finite(f"an activation at {column}", x).double()
    found = solve(fit, x[:, train], mixed[:, train])
    readers = found.reader[:, 0]
    vectors = readers if found.vector is None else found.vector[:, 0]
    return _Cells(vectors, readers, found.bias[:, 0], found.scores(x[:, test]))
