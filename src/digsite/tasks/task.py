"""A question in a form that can be measured: prompt pairs as exact tokens, answers, spans and a metric.

Rows and examples. With answers of one token a row is an example: the answer is read at the last column. With longer
answers every answer has its own row, the prompt followed by all of the answer but its last token (the rows of all right
answers first, then those of the wrong ones), and the last `keep` columns predict the answer. Methods treat rows alike:
they run `task.clean`, patch row i from row i of `task.corrupt`, and call `task.metric(logits)`, which gives one number
per example in both cases. All rows are padded on the left.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.text import Text
from torch import Tensor

from digsite._core.errors import BadInput, Unsupported, explain
from digsite.models import Model, Tokens
from digsite.models.tokens import grid, pad_id
from digsite.tasks.answers import Answers, number_rows, pad_answers, share_rows
from digsite.tasks.encoding import Encoded
from digsite.tasks.metrics import METRICS, measure_answers, metric_named
from digsite.tasks.preview import Shown, preview
from digsite.tasks.records import usable_rows

RightWeights = tuple[Int[Tensor, "example choice"], Float[Tensor, "example choice"]]
WrongWeights = tuple[Int[Tensor, "example _"], Float[Tensor, "example _"]]


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """Prompts in clean/corrupt pairs whose answers are known, and a metric that gives one number per example.

    Attributes:
        name: A short name, such as "ioi".
        question: What the task asks of a model, as a sentence.
        clean: The rows to run.
        corrupt: The same rows with one fact changed, token for token as long; None where the task has no pairs.
        right: The right answers.
        wrong: The wrong answers; no choices where the task has none.
        spans: Name -> positions (start, stop) in every example, counted from the first real token (a BOS counts);
            start = stop where an example does not have the span.
        groups: What each example shares with others, such as its template.
        metric_name: The metric that `metric` computes unless told otherwise.
        normalise: "length" scores an answer by its log-probability per token instead of in total.
        dropped: Reason -> how many candidates could not be used.
        seed: Of the draw, where there was one.
        options: What its family was asked for, beside how many examples and which; empty for a task of no family.
        description: What the prompts are, as a phrase.
    """

    name: str
    question: str
    clean: Tokens
    corrupt: Tokens | None
    right: Answers
    wrong: Answers
    spans: Mapping[str, Int[Tensor, "example 2"]]
    groups: tuple[str, ...]
    metric_name: str = "logit_diff"
    normalise: str | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    seed: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    answer_position: ClassVar[int] = -1
    """The position whose logits predict the (last token of the) answer, in every row."""

    def __post_init__(self):
        if self.normalise not in (None, "length"):
            raise BadInput(explain(f"normalise={self.normalise!r} is not a way to score", possible=["None", "length"]))
        if metric_named(self.metric_name).needs == "reference":
            raise BadInput(
                explain(
                    f"The metric {self.metric_name} cannot be a task's own: it compares with other logits",
                    do='ask for it where the logits are: task.metric(logits, "kl", reference=clean_logits)',
                )
            )

    def __len__(self) -> int:
        """The number of examples (not rows)."""
        return len(self.groups)

    @property
    def keep(self) -> int:
        """How many of the last columns of the logits the metric reads."""
        return max(self.right.ids.shape[-1], self.wrong.ids.shape[-1])

    @property
    def unit(self) -> str:
        """The unit of the task's own metric."""
        return METRICS[self.metric_name].unit

    @cached_property
    def example_rows(self) -> Int[Tensor, " batch"]:
        """The example to which each row belongs; 0, 1, 2 … where answers have one token."""
        owner = torch.empty(len(self.clean), dtype=torch.long)
        for side in (self.right, self.wrong):
            examples = torch.arange(len(self))[:, None].expand_as(side.rows)
            owner[side.rows[side.real]] = examples[side.real]
        return owner

    def require_corrupt(self) -> Tokens:
        """The corrupt rows.

        Raises:
            BadInput: The task has none.
        """
        if self.corrupt is None:
            raise BadInput(
                explain(
                    f"The task {self.name} has no corrupt prompts, and this method compares two prompts",
                    do="use a task with pairs, or a method that needs one prompt (logit lens, direct attribution, "
                    "zero or mean ablation)",
                )
            )
        return self.corrupt

    def metric(
        self,
        logits: Float[Tensor, "batch pos vocab"],
        name: str | None = None,
        *,
        reference: Float[Tensor, "batch columns vocab"] | None = None,
    ) -> Float[Tensor, " example"]:
        """How well these logits answer, one number per example.

        Args:
            logits: Of every row of `clean` or `corrupt`, the last `keep` columns or more.
            name: One of `METRICS`; the task's own unless given.
            reference: The logits to compare with, for "kl".

        Returns:
            Differentiable where the formula is (not "rank", not "accuracy").

        Raises:
            BadInput: No such metric, or it needs wrong answers or a reference that are not there.
            ShapeMismatch: Rows or columns are missing.
            NotFinite: The logits hold NaN or infinity.

        Units:
            `METRICS[name].unit`; formulas in `METRICS[name].formula`.
        """
        return measure_answers(
            name or self.metric_name,
            logits,
            self.right,
            self.wrong,
            reference=reference,
            per_token=self.normalise == "length",
        )

    def metric_of_many(
        self,
        logits: Float[Tensor, "run batch pos vocab"],
        name: str | None = None,
        *,
        reference: Float[Tensor, "batch columns vocab"] | None = None,
    ) -> Float[Tensor, "run example"]:
        """`metric` of several runs of the same rows in one call."""
        times, rows = logits.shape[:2]
        many = measure_answers(
            name or self.metric_name,
            logits.flatten(0, 1),
            self.right.repeated(times, rows),
            self.wrong.repeated(times, rows),
            reference=None if reference is None else reference.repeat(times, 1, 1),
            per_token=self.normalise == "length",
        )
        return many.unflatten(0, (times, -1))

    def answer_direction_ids(self) -> tuple[RightWeights, WrongWeights]:
        """The token ids and weights of the linear direction that the logit difference reads.

        Returns:
            (ids, weights) of the right answers and of the wrong answers; weights of an example sum to 1 and are 0
            where it has fewer answers than others. logit_diff = Σ w_right logit − Σ w_wrong logit.

        Raises:
            Unsupported: Answers have several tokens; their log-probability is not linear in the last residual.
            BadInput: An example has no wrong answer.
        """
        if self.keep > 1:
            raise Unsupported(
                explain(
                    f"The task {self.name} has answers of up to {self.keep} tokens, which no single direction reads",
                    do="use one-token answers for direct attribution; patching and ablation take any answer",
                )
            )
        if not bool(self.wrong.real.any(-1).all()):
            raise BadInput(explain(f"An example of {self.name} has no wrong answer to subtract"))
        right, wrong = (
            (side.ids[..., 0], side.real / side.real.sum(-1, keepdim=True)) for side in (self.right, self.wrong)
        )
        return right, wrong

    def row_spans(self, name: str) -> Int[Tensor, "batch 2"]:
        """The positions (start, stop) of a span in every row.

        Raises:
            BadInput: The task has no such span.
        """
        if name not in self.spans:
            raise BadInput(explain(f"The task {self.name} has no span {name!r}", possible=self.spans, near=name))
        return self.spans[name][self.example_rows]

    def inside(self, names: Sequence[str]) -> Bool[Tensor, "batch pos"]:
        """Which columns of each clean row belong to one of some spans.

        Raises:
            BadInput: The task has no such span.
        """
        position = torch.arange(self.clean.ids.shape[1]) - torch.tensor(self.clean.starts)[:, None]
        found = torch.zeros_like(self.clean.mask)
        for name in names:
            spans = self.row_spans(name)
            found |= (position >= spans[:, :1]) & (position < spans[:, 1:])
        return found

    def take(self, examples: Any) -> "Task":
        """The task with the chosen examples only: an int, a slice, a list or tensor of indices, or a mask."""
        index = torch.arange(len(self))[examples].reshape(-1)
        if not len(index):
            raise BadInput(explain(f"No example of {self.name} is left", found=f"0 of {len(self)} chosen"))
        right, wrong = self.right.take(index), self.wrong.take(index)
        if self.keep == 1:
            rows = index
            right, wrong = share_rows(right), share_rows(wrong)
        else:
            rows = torch.cat([side.rows[side.real] for side in (right, wrong)])
            right, wrong = number_rows(right, wrong)
        return replace(
            self,
            clean=self.clean[rows],
            corrupt=None if self.corrupt is None else self.corrupt[rows],
            right=right,
            wrong=wrong,
            spans={name: places[index] for name, places in self.spans.items()},
            groups=tuple(self.groups[i] for i in index.tolist()),
        )

    __getitem__ = take

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that identify prompts, answers and how they are scored."""
        prompts = [None if tokens is None else tokens.fingerprint for tokens in (self.clean, self.corrupt)]
        parts = (self.metric_name, self.normalise, *prompts, self.right.fingerprint, self.wrong.fingerprint)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def summary(self) -> dict[str, Any]:
        """What the task is, as plain data with stable keys."""
        lengths = self.prompt_lengths
        widths = torch.cat([side.mask.sum(-1)[side.real] for side in (self.right, self.wrong)])
        return {
            "name": self.name,
            "question": self.question,
            "description": self.description,
            "examples": len(self),
            "rows": len(self.clean),
            "paired": self.corrupt is not None,
            "metric": self.metric_name,
            "unit": self.unit,
            "normalise": self.normalise,
            "bos": self.clean.bos,
            "prompt_tokens": [min(lengths), max(lengths)],
            "answer_tokens": [int(widths.min()), int(widths.max())],
            "spans": sorted(self.spans),
            "groups": dict(Counter(self.groups)),
            "dropped": dict(self.dropped),
            "seed": self.seed,
            "fingerprint": self.fingerprint,
        }

    def preview(self, examples: int = 3) -> Text:
        """The first examples with their exact tokens; tokens in which clean and corrupt differ are marked."""
        part = self.take(slice(0, examples)) if examples else self
        prompts = part.prompt_lengths
        first = part.right.rows[:, 0].tolist()
        tokenizer = self.clean.tokenizer
        shown = []
        for i in range(min(examples, len(part))):
            clean = part.clean.strings[first[i]][: prompts[i]]
            corrupt = None if part.corrupt is None else part.corrupt.strings[first[i]][: prompts[i]]
            answers = [side.spelled(i, tokenizer) for side in (part.right, part.wrong)]
            group = f" · {part.groups[i]}" if part.groups[i] else ""
            shown.append(Shown(f"example {i}{group}", clean, corrupt, *answers))
        return preview(self._head(), shown)

    def show(self, examples: int = 3) -> None:
        """Print the first examples with their exact tokens."""
        Console().print(self.preview(examples))

    def __repr__(self) -> str:
        return self.preview(2).plain

    def __rich__(self) -> Text:
        return self.preview()

    def _head(self) -> list[str]:
        what = "pairs" if self.corrupt is not None else "prompts without a corrupt one"
        rows = "" if len(self.clean) == len(self) else f" in {len(self.clean)} rows"
        unit = self.unit + (", per answer token" if self.normalise else "")
        head = [
            f"Task {self.name}" + (f": {self.question}" if self.question else ""),
            f"  {len(self)} {what}{rows}; metric {self.metric_name} ({unit}); BOS {self.clean.bos}",
        ]
        if self.dropped:
            head.append("  dropped: " + "; ".join(f"{count} × {reason}" for reason, count in self.dropped.items()))
        return head

    @cached_property
    def prompt_lengths(self) -> list[int]:
        """Tokens of each example's prompt, without the answer that its rows force."""
        rows = self.clean.mask.sum(-1)[self.right.rows[:, 0]]
        return (rows - self.right.mask[:, 0].sum(-1) + 1).tolist()

    @classmethod
    def from_frame(
        cls,
        model: Model,
        frame: Any,
        *,
        clean: str = "clean",
        corrupt: str | None = "corrupt",
        right: str = "right",
        wrong: str | None = "wrong",
        group: str | None = None,
        name: str | None = None,
        question: str = "",
        metric: str | None = None,
        normalise: str | None = None,
        drop_unusable: bool = False,
    ) -> "Task":
        """A task from your own table, refused as a whole if any row would mislead.

        Args:
            model: Its tokenizer makes the tokens and decides which rows can be used.
            frame: A CSV, TSV, JSONL or Parquet file, a polars or pandas frame, a mapping of columns or a list of rows.
            clean: Column of the prompts. A prompt is used exactly as written.
            corrupt: Column of the corrupt prompts, or None for a task without pairs.
            right: Column of the right answers, several separated by "|". An answer is used exactly as written: write
                its leading space.
            wrong: Column of the wrong answers, or None.
            group: Column of what examples share, or None.
            name: The task's name; the file's name unless given.
            question: What the task asks, as a sentence.
            metric: The task's own metric; "logit_diff", or "log_prob" where there are no wrong answers.
            normalise: "length" scores an answer per token.
            drop_unusable: Leave out the rows that cannot be used, and of several answers those that cannot, and count
                them in `dropped`, instead of refusing.

        Raises:
            BadInput: A column is missing, or rows cannot be used; the message names them and says why.
            LoadError: The file cannot be read.
        """
        columns = {"clean": clean, "corrupt": corrupt, "right": right, "wrong": wrong, "group": group}
        good, dropped = usable_rows(model, frame, columns, drop=drop_unusable)
        return assemble(
            model,
            good,
            name=name or (Path(frame).stem if isinstance(frame, str | Path) else "own data"),
            question=question,
            metric=metric or ("log_prob" if wrong is None else "logit_diff"),
            normalise=normalise,
            dropped=dropped,
            description=f"{len(good)} rows of the user's own data",
        )


def assemble(
    model: Model,
    examples: Sequence[Encoded],
    *,
    name: str,
    question: str,
    metric: str = "logit_diff",
    normalise: str | None = None,
    dropped: Mapping[str, int] | None = None,
    seed: int | None = None,
    options: Mapping[str, str] | None = None,
    description: str = "",
    bos: str | None = None,
) -> Task:
    """A task from examples that are already ids, laid out in rows.

    Args:
        model: Says who puts the BOS; the last part of its name replaces `{model}` in the question.
        examples: At least one; all with a corrupt prompt or all without.
        name: The task's name.
        question: What it asks.
        metric: The task's own metric.
        normalise: "length" scores an answer per token.
        dropped: Reason -> how many candidates were not used.
        seed: Of the draw, where there was one.
        options: What its family was asked for.
        description: What the prompts are.
        bos: Who put the BOS, where the ids were not made from the texts as they stand.

    Raises:
        BadInput: Some examples have a corrupt prompt and others have none.
    """
    without = [e.example.clean for e in examples if e.corrupt is None]
    if without and len(without) < len(examples):
        raise BadInput(explain("Some examples have a corrupt prompt and others have none", found=repr(without[0])))
    right, wrong = (pad_answers(sides) for sides in ([e.right for e in examples], [e.wrong for e in examples]))
    if max(e.answer_width for e in examples) == 1:
        right, wrong = share_rows(right), share_rows(wrong)
        forced = [(i, ()) for i in range(len(examples))]
    else:
        right, wrong = number_rows(right, wrong)
        sides = [[e.right for e in examples], [e.wrong for e in examples]]
        forced = [(i, ids[:-1]) for side in sides for i, answers in enumerate(side) for ids in answers.values()]
    bos = bos or model.tokens([e.example.clean for e in examples]).bos
    lay = {"pad": pad_id(model.tokenizer), "padding": "left", "bos": bos, "tokenizer": model.tokenizer}
    corrupt = None if without else grid([(examples[i].corrupt or ()) + more for i, more in forced], **lay)
    names = dict.fromkeys(span for e in examples for span in e.spans)
    return Task(
        name=name,
        question=question.replace("{model}", Path(model.name).name),
        clean=grid([examples[i].clean + more for i, more in forced], **lay),
        corrupt=corrupt,
        right=right,
        wrong=wrong,
        spans={span: torch.tensor([e.spans.get(span, (0, 0)) for e in examples]) for span in names},
        groups=tuple(e.example.group for e in examples),
        metric_name=metric,
        normalise=normalise,
        dropped=dict(dropped or {}),
        seed=seed,
        options=dict(options or {}),
        description=description,
    )
