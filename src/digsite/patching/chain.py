"""Patching along a chain of thought: which step of a worked text does the answer at its end come from?

1. Two ends, as in activation patching: the metric on the text that receives (base) and on the one that gives (source).
   The texts are fixed, so every answer is read after exactly these ids (teacher-forced).
2. For each step two patches. "written": the step's tokens are those of the source, and everything behind them is
   computed from them. "state": at the step's positions every layer's stream is that of the source, so what later
   positions can learn there is what they would have learned in the source, hidden work on earlier text included.
   What state moves and written does not is work that the step holds without writing it down.
3. The effect of a step is (patched − base) / (source − base), the mean difference of the two ends below the line.
4. The null moves the stream at the step's positions as far as the source would, in a random direction.
5. "anew": after the state of a step is patched, the model writes the rest of the text itself (greedily, with a KV
   cache), and its answer is read from what it wrote: a later step may repair what the patch broke, or pass it on.
   The same without a patch says what the model writes when it is left alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval, wilson_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.models import Edit, Model, Tokens, made_by, replace
from digsite.models.generate import Generation
from digsite.models.tokens import grid, pad_id
from digsite.patching.activation import DIRECTIONS, NULL_EXAMPLES, ROWS, moved
from digsite.patching.places import lined_up, places
from digsite.tasks import Task

BASE, SOURCE, NEITHER = 0, 1, -1
"""Whose answer a text that was written anew ends in."""


@dataclass(frozen=True, kw_only=True)
class ChainPatching(Result):
    """How much of the answer each step of a text carries, for every example.

    Attributes:
        direction: "noise" (corrupt into clean) or "denoise" (clean into corrupt).
        steps: The steps: spans of the task, or positions.
        metric_name: The metric.
        unit: Its unit.
        base: The metric of the text that receives.
        source: The metric of the text that gives.
        written: The metric with the tokens of each step from the source.
        state: The metric with the whole stream at each step from the source.
        null: The effect of an equally large change of the stream in a random direction, on the first examples.
        turned: Whether the source's answer is the more probable one with each step's state patched, teacher-forced.
        anew: Whose answer the model writes with each step's state patched: 1 the source's, 0 the base's, −1 another.
            No steps where nothing was written anew.
        alone: The same without a patch.
    """

    SCHEMA: ClassVar[str] = "patching.chain/1"

    direction: str
    steps: tuple[str, ...]
    metric_name: str
    unit: str
    base: Float[Tensor, " example"]
    source: Float[Tensor, " example"]
    written: Float[Tensor, "step example"]
    state: Float[Tensor, "step example"]
    null: Float[Tensor, "step drawn"]
    turned: Bool[Tensor, "step example"]
    anew: Int[Tensor, "resampled example"]
    alone: Int[Tensor, "resampled example"]

    def effects(self, patched: Float[Tensor, "step example"]) -> Float[Tensor, "step example"]:
        """Share of (source − base) that each step brings about; `patched` is `written` or `state`."""
        return (patched - self.base) / (self.source - self.base).mean()

    def to_frame(self) -> pl.DataFrame:
        """One row a step: effects of what is written and of the state, null, and how often the answer turns."""
        columns: dict[str, list] = {"step": list(self.steps)}
        for name, values in (("written", self.effects(self.written)), ("state", self.effects(self.state))):
            low, high = bootstrap_interval(values.T)
            columns |= {name: values.mean(1).tolist(), f"{name}_low": low.tolist(), f"{name}_high": high.tolist()}
        low, high = bootstrap_interval(self.null.T)
        columns |= {"null": self.null.mean(1).tolist(), "null_low": low.tolist(), "null_high": high.tolist()}
        columns["turned"] = self.turned.double().mean(1).tolist()
        if len(self.anew):
            turned = self.anew == SOURCE
            ends = [wilson_interval(int(row.sum()), turned.shape[1]) for row in turned]
            columns["anew"] = turned.double().mean(1).tolist()
            columns |= {"anew_low": [low for low, _ in ends], "anew_high": [high for _, high in ends]}
            columns["alone"] = (self.alone == SOURCE).double().mean(1).tolist()
        columns["n"] = [len(self.base)] * len(self.steps)
        return pl.DataFrame(columns)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        top = self.to_frame().sort(pl.col("state").abs(), descending=True).row(0, named=True)
        what = "restores" if self.direction == "denoise" else "destroys"
        anew = (
            f"; when the rest is written anew the answer turns in {top['anew']:.0%} of the texts, "
            f"teacher-forced in {top['turned']:.0%}, without a patch in {top['alone']:.0%}"
            if len(self.anew)
            else ""
        )
        return (
            f"The step {top['step']!r} {what} {top['state']:.0%} of the {self.metric_name} "
            f"(95 % {top['state_low']:.0%} to {top['state_high']:.0%}; null {top['null']:.0%}; n = {top['n']}), "
            f"its words alone {top['written']:.0%}{anew}"
        )


class _Rows(NamedTuple):
    """The two texts of a task by their part in the patch."""

    base: Tokens
    source: Tokens


@method
def chain_patching(
    model: Model,
    task: Task,
    *,
    steps: str | Sequence[str] | None = None,
    direction: str = "noise",
    metric: str | None = None,
    anew: bool = False,
    read: Callable[[str], str] | None = None,
    max_new_tokens: int | None = None,
    batch_rows: int = ROWS,
    seed: int = 0,
) -> ChainPatching:
    """Which step of a worked text the answer at its end comes from.

    Args:
        model: The model.
        task: Pairs of texts, step by step of one length: of `chain_task`, or any task with spans.
        steps: Spans of the task; None for all of them, "each" for every position (texts of one length).
        direction: "noise" (corrupt into clean: what is needed) or "denoise" (clean into corrupt: what is enough).
        metric: The task's own if None.
        anew: Also let the model write what follows each patched step, and read its answer there.
        read: From what the model wrote to its answer. None reads it where it stands in the text as given, so that the
            steps after the patch must keep their lengths; texts of free form need a function.
        max_new_tokens: Most tokens that are written after a step; what is left of the text as given if None.
        batch_rows: Rows in one pass.
        seed: Of the null's random directions.

    Returns:
        Effects of every step and example, with intervals and a null. Effects by layer are those of
        `activation_patching(model, task, "layers.*.resid_post", at=steps)`.

    Raises:
        BadInput: A direction that does not exist, texts that do not line up or score the same, or no steps.

    Units:
        Effects are shares of (source − base); `written`, `state`, `base` and `source` are in the metric's unit; what
        turns is a fraction of the examples.

    Caveats:
        Teacher-forced, later steps keep the words of the base, which may contradict the patched one: a text that no run
        would have written. Written anew they follow, but then a step also acts through all the words that it changed.
    """
    if direction not in DIRECTIONS:
        raise BadInput(explain(f"direction={direction!r} does not exist", possible=DIRECTIONS))
    lined_up(task)
    rows = _Rows(task.clean, task.require_corrupt())
    rows = rows if direction == "noise" else _Rows(rows.source, rows.base)
    named = _steps(task, steps)
    with measure() as cost:
        # 1. The two ends.
        ends = [_scores(model, task, tokens, [], metric, batch_rows)[0] for tokens in rows]
        span = float((ends[1] - ends[0]).mean())
        if abs(span) < 1e-6:
            raise BadInput(
                explain(
                    "Clean and corrupt texts score the same, so no step has a share of the difference",
                    found=f"mean {metric or task.metric_name} {float(ends[0].mean()):.3g} for both",
                    do="use another corruption or another metric",
                )
            )
        # 2. and 4. Every step.
        patched = _Patcher(model, task, rows, metric, batch_rows, seed)
        found = [patched(at) for at in track(named.values(), "steps")]
        written, state, right, null = (torch.stack(part) for part in zip(*found, strict=True))
        # 5. Written anew.
        writer = _Writer(model, task, rows, direction, read, max_new_tokens)
        again = [(writer(at, patched=True), writer(at, patched=False)) for at in named.values()] if anew else []
    none = torch.zeros(0, len(task), dtype=torch.long)
    return ChainPatching(
        direction=direction,
        steps=tuple(named),
        metric_name=metric or task.metric_name,
        unit=task.unit if metric is None else "",
        base=ends[0],
        source=ends[1],
        written=written,
        state=state,
        null=null / span,
        turned=right if direction == "denoise" else ~right,
        anew=torch.stack([one for one, _ in again]) if again else none,
        alone=torch.stack([one for _, one in again]) if again else none,
        provenance=made_by(
            f"digsite.chain_patching(model, task, steps={steps!r}, direction={direction!r}, anew={anew})",
            model,
            task.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def _steps(task: Task, steps: str | Sequence[str] | None) -> dict[str, Int[Tensor, "batch k"]]:
    """The positions of each step in every row, counted from its first token."""
    if steps is None:
        steps = sorted(task.spans, key=lambda name: int(task.spans[name][0, 0]))
    starts = torch.tensor(task.clean.starts)[:, None]
    found = {name: columns - starts for name, columns in places(task, steps)}
    if steps == "each":  # answers of several tokens stand behind the text in their rows
        found = {name: at for name, at in found.items() if int(at.max()) < min(task.prompt_lengths)}
    if not found:
        raise BadInput(explain(f"The task {task.name} has no steps", do="make it with chain_task, or name its spans"))
    return found


def _stream(model: Model, tokens: Tokens) -> dict[str, Float[Tensor, "batch pos d_model"]]:
    """The whole stream: where each layer starts, and where the last one ends."""
    sites = ["layers.*.resid_pre", f"layers.{model.n_layers - 1}.resid_post"]
    run = model.run(tokens, read=sites, logits=None)
    return {str(site): value for address in sites for site, value in run.each(address).items()}


def _put(stream: dict[str, Tensor], at: Tensor) -> list[Edit]:
    """Edits that put in another stream at some positions of each row; both have the same rows."""
    return [replace(site, value, at=at) for site, value in stream.items()]


def _scores(
    model: Model, task: Task, tokens: Tokens, edits: Sequence[Edit], metric: str | None, batch_rows: int
) -> tuple[Float[Tensor, " example"], Bool[Tensor, " example"]]:
    """The metric of each example, and whether its right answer is the more probable one."""
    logits = model.run(tokens, edits=edits, logits=task.keep, batch_size=batch_rows).logits
    return task.metric(logits, metric).float(), task.metric(logits, "accuracy").bool()


class _Patcher:
    """The steps of a task patched one at a time; what all of them share is run once."""

    def __init__(self, model: Model, task: Task, rows: _Rows, metric: str | None, batch_rows: int, seed: int):
        self.model, self.task, self.rows, self.metric, self.batch_rows = model, task, rows, metric, batch_rows
        own, self.source = (_stream(model, tokens) for tokens in rows)
        # 4. The null, on the first examples.
        few = torch.arange(min(len(task), NULL_EXAMPLES))
        self.part, self.mine = task.take(few), torch.isin(task.example_rows, few).nonzero().squeeze(1)
        base = rows.base
        self.few = Tokens(base.ids[self.mine], base.mask[self.mine], bos=base.bos, tokenizer=base.tokenizer)
        generator = torch.Generator().manual_seed(seed)
        self.noised = {site: moved(own[site][self.mine], self.source[site][self.mine], generator) for site in own}
        self.unmoved = self._scored(self.part, self.few, [])[0]

    def __call__(self, at: Int[Tensor, "batch k"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The metric with a step's words and with its state, whether the answer is right then, the null's change."""
        base, source = self.rows
        written, _ = self._scored(self.task, spoken(base, source, at), [])
        state, right = self._scored(self.task, base, _put(self.source, at))
        null, _ = self._scored(self.part, self.few, _put(self.noised, at[self.mine]))
        return written, state, right, null - self.unmoved

    def _scored(self, task: Task, tokens: Tokens, edits: Sequence[Edit]) -> tuple[Tensor, Tensor]:
        return _scores(self.model, task, tokens, edits, self.metric, self.batch_rows)


def spoken(base: Tokens, source: Tokens, at: Int[Tensor, "batch k"]) -> Tokens:
    """The rows of base with the tokens of source at some positions of each row."""
    ids = base.ids.clone()
    columns = at + torch.tensor(base.starts)[:, None]
    ids.scatter_(1, columns, source.ids.gather(1, columns))
    return Tokens(ids, base.mask, bos=base.bos, tokenizer=base.tokenizer)


class _Writer:
    """Lets the model write what follows a step, and reads whose answer it comes to."""

    def __init__(
        self,
        model: Model,
        task: Task,
        rows: _Rows,
        direction: str,
        read: Callable[[str], str] | None,
        most: int | None,
    ):
        self.model, self.task, self.read, self.most = model, task, read, most
        self.first = task.right.rows[:, 0]  # the row of each example whose text is written on
        self.texts = [
            [
                tokens.ids[row][tokens.mask[row]].tolist()[:length]
                for row, length in zip(self.first, task.prompt_lengths, strict=True)
            ]
            for tokens in rows
        ]
        sides = (task.right, task.wrong) if direction == "noise" else (task.wrong, task.right)
        self.answers = [
            [
                [ids[mask].tolist() for ids, mask in zip(*each, strict=True) if mask.any()]
                for each in zip(side.ids, side.mask, strict=True)
            ]
            for side in sides
        ]
        self.spelled = [[[text.strip() for text in texts] for texts in side.texts] for side in sides]

    def __call__(self, at: Int[Tensor, "batch k"], *, patched: bool) -> Int[Tensor, " example"]:
        """Whose answer is written after a step, with its state patched or as it is."""
        mine = at[self.first]
        stops = (mine.max(1).values + 1).tolist()
        lay = {"pad": pad_id(self.model.tokenizer), "padding": "left", "tokenizer": self.model.tokenizer}
        base, source = (grid([ids[:stop] for ids, stop in zip(one, stops, strict=True)], **lay) for one in self.texts)
        left = [length - stop for length, stop in zip(self.task.prompt_lengths, stops, strict=True)]
        most = self.most or max(left) + self.task.keep
        edits = _put(_stream(self.model, source), mine) if patched else []
        made = self.model.generate(base, max_new_tokens=most, edits=edits)
        return torch.tensor([self._whose(i, made, behind) for i, behind in enumerate(left)])

    def _whose(self, example: int, made: Generation, behind: int) -> int:
        said = None if self.read is None else self.read(made.texts[example]).strip()
        for whose, side, spelled in zip((BASE, SOURCE), self.answers, self.spelled, strict=True):
            if said is not None:
                if said in spelled[example]:
                    return whose
            elif any(made.generated[example][behind : behind + len(ids)] == ids for ids in side[example]):
                return whose
        return NEITHER
