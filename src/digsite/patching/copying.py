"""Is the answer at the end of a worked text computed, or copied from where it was stated before?

1. The stated answer is replaced by the other text's, and all else stays. An answer that follows was copied.
2. The question is replaced by the other text's, and the stated answer (and all else) stays. An answer that follows was
   computed from the question once more.
3. The null replaces as many other tokens, neither question nor stated answer, by other tokens of these texts: how often
   the answer turns when anything of that size is changed.
4. Shares are over the examples in which the model gives the right answer to both texts as they are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval, wilson_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.models import Model, Tokens, made_by
from digsite.patching.activation import ROWS
from digsite.patching.places import lined_up
from digsite.tasks import Task


@dataclass(frozen=True, kw_only=True)
class CopyTest(Result):
    """Whether an answer follows the text or the question, for every example.

    Attributes:
        task: The task.
        stated: The spans that state the answer.
        question: The spans that ask.
        metric_name: The metric.
        unit: Its unit.
        known: Whether the model gives the right answer to both texts as they are.
        base: The metric of the text as it is.
        other: The metric of the other text (the corrupt one).
        stated_replaced: The metric with the other text's stated answer.
        question_replaced: The metric with the other text's question.
        follows_text: Whether the other text's answer is the more probable one when its stated answer is put in.
        follows_question: The same for its question.
        null: Whether it is the more probable one when as many other tokens are replaced; no draws where there are none.
    """

    SCHEMA: ClassVar[str] = "patching.copying/1"

    task: str
    stated: tuple[str, ...]
    question: tuple[str, ...]
    metric_name: str
    unit: str
    known: Bool[Tensor, " example"]
    base: Float[Tensor, " example"]
    other: Float[Tensor, " example"]
    stated_replaced: Float[Tensor, " example"]
    question_replaced: Float[Tensor, " example"]
    follows_text: Bool[Tensor, " example"]
    follows_question: Bool[Tensor, " example"]
    null: Bool[Tensor, "draw example"]

    @property
    def copied(self) -> tuple[float, float, float]:
        """Share of the known examples whose answer follows the stated one, with its 95 % Wilson interval."""
        return _share(self.follows_text[self.known])

    @property
    def computed(self) -> tuple[float, float, float]:
        """Share of the known examples whose answer follows the question, with its 95 % Wilson interval."""
        return _share(self.follows_question[self.known])

    @property
    def turned_by_chance(self) -> tuple[float, float, float]:
        """Share of draws of the null that turn the answer, with a 95 % bootstrap interval over the known examples."""
        if not len(self.null):
            return math.nan, math.nan, math.nan
        each = self.null[:, self.known].double().mean(0)
        low, high = bootstrap_interval(each)
        return float(each.mean()), float(low), float(high)

    def to_frame(self) -> pl.DataFrame:
        """One row a replacement: share of known examples that turn, and the mean share of the metric that moves."""
        span = (self.other - self.base)[self.known].mean()
        rows = []
        for name, share, patched in (
            ("stated answer", self.copied, self.stated_replaced),
            ("question", self.computed, self.question_replaced),
            ("other tokens (null)", self.turned_by_chance, None),
        ):
            moves = (None, None, None)
            if patched is not None:
                effect = ((patched - self.base)[self.known] / span).double()
                low, high = bootstrap_interval(effect)
                moves = (float(effect.mean()), float(low), float(high))
            rows.append((name, *share, *moves, int(self.known.sum())))
        columns = ["replaced", "turned", "low", "high", "effect", "effect_low", "effect_high", "n"]
        return pl.DataFrame(rows, schema=columns, orient="row")

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        copied, computed, chance = self.copied, self.computed, self.turned_by_chance
        text, asked = (share[0] >= 0.5 and not share[1] <= chance[0] for share in (copied, computed))
        what = {
            (True, False): "is copied from the text",
            (False, True): "is computed from the question",
            (True, True): "needs both the stated answer and the question",
            (False, False): "follows neither",
        }[text, asked]
        null = "no other tokens to replace" if not len(self.null) else f"null {chance[0]:.0%}"
        return (
            f"The answer of {self.task} {what}: it follows a replaced stated answer in {copied[0]:.0%} of the texts "
            f"(95 % {copied[1]:.0%} to {copied[2]:.0%}) and a replaced question in {computed[0]:.0%} "
            f"({computed[1]:.0%} to {computed[2]:.0%}); {null}; n = {int(self.known.sum())} "
            f"of {len(self.known)} that the model answers"
        )


@method
def copy_test(
    model: Model,
    task: Task,
    *,
    stated: str | Sequence[str] = "stated answer",
    question: str | Sequence[str] = "question",
    draws: int = 8,
    batch_rows: int = ROWS,
    seed: int = 0,
) -> CopyTest:
    """Whether the answer at the end of a text is copied from where it was stated, or computed from the question.

    Args:
        model: The model.
        task: Pairs of texts, step by step of one length: of `chain_task`, or any task with spans.
        stated: Spans that state the answer before its end; those that give it away too, such as a worked sum.
        question: Spans that ask.
        draws: Of the null, for each example.
        batch_rows: Rows in one pass.
        seed: Of the null.

    Returns:
        Shares of the examples, with intervals and the null.

    Raises:
        BadInput: Texts that do not line up, spans in which they do not differ, or a model that answers none of them.

    Units:
        Shares are fractions of the examples whose both texts the model answers; the metrics are in the task's unit.

    Caveats:
        Teacher-forced: the answer is read after exactly these texts, most of which contradict themselves on purpose. A
        step between question and stated answer that hints at the answer is a third place to copy from; name it among
        `stated` to ask about both together.
    """
    lined_up(task)
    names = [tuple([one] if isinstance(one, str) else one) for one in (stated, question)]
    places = [task.inside(some) for some in names]
    clean, corrupt = task.clean, task.require_corrupt()
    for some, place in zip(names, places, strict=True):
        same = ~((clean.ids != corrupt.ids) & place).any(1)
        if bool(same.any()):
            row = int(same.nonzero()[0])
            raise BadInput(
                explain(
                    f"The two texts have the same {' and '.join(some)}, so there is nothing to replace",
                    found=f"in {int(same.sum())} rows, the first of example {int(task.example_rows[row])}",
                    do="pair texts that differ there, or name other spans",
                )
            )

    def asked(tokens: Tokens) -> tuple[Tensor, Tensor]:
        logits = model.run(tokens, logits=task.keep, batch_size=batch_rows).logits
        return task.metric(logits).float(), task.metric(logits, "accuracy").bool()

    with measure() as cost:
        (base, right), (other, wrong) = asked(clean), asked(corrupt)
        known = right & ~wrong
        if not bool(known.any()):
            raise BadInput(
                explain(
                    "The model answers no pair of texts right, so there is no answer to trace",
                    found=f"{int(right.sum())} clean and {int((~wrong).sum())} corrupt of {len(task)} texts",
                )
            )
        found = [asked(_mixed(clean, corrupt.ids, place)) for place in places]
        null = [~asked(tokens)[1] for tokens in _elsewhere(task, places, draws, seed)]
    return CopyTest(
        task=task.name,
        stated=names[0],
        question=names[1],
        metric_name=task.metric_name,
        unit=task.unit,
        known=known,
        base=base,
        other=other,
        stated_replaced=found[0][0],
        question_replaced=found[1][0],
        follows_text=~found[0][1],
        follows_question=~found[1][1],
        null=torch.stack(null) if null else torch.zeros(0, len(task), dtype=torch.bool),
        provenance=made_by(
            f"digsite.copy_test(model, task, stated={stated!r}, question={question!r}, draws={draws})",
            model,
            task.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def _mixed(tokens: Tokens, ids: Tensor, where: Bool[Tensor, "batch pos"]) -> Tokens:
    return Tokens(torch.where(where, ids, tokens.ids), tokens.mask, bos=tokens.bos, tokenizer=tokens.tokenizer)


def _elsewhere(task: Task, places: Sequence[Tensor], draws: int, seed: int) -> list[Tokens]:
    """Texts in which as many tokens as the stated answer has are others, at places that neither state nor ask."""
    tokens = task.clean
    special = torch.tensor(sorted(getattr(tokens.tokenizer, "all_special_ids", None) or [-1]))
    starts, first = torch.tensor(tokens.starts), task.right.rows[:, 0]
    behind = (
        torch.arange(tokens.ids.shape[1]) - starts[:, None]
        >= torch.tensor(task.prompt_lengths)[task.example_rows][:, None]
    )
    free = tokens.mask & ~places[0] & ~places[1] & ~behind & ~torch.isin(tokens.ids, special)
    sizes, pool = places[0].sum(1), tokens.ids[tokens.mask & ~torch.isin(tokens.ids, special)].unique()
    if not draws or not bool((free[first].sum(1) >= sizes[first]).all()) or len(pool) < 2:
        return []
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        ids = tokens.ids.clone()
        for example, row in enumerate(first.tolist()):
            columns = free[row].nonzero().flatten()
            columns = columns[torch.randperm(len(columns), generator=generator)[: int(sizes[row])]]
            drawn = pool[torch.randint(len(pool), (len(columns),), generator=generator)]
            clash = drawn == tokens.ids[row, columns]
            drawn[clash] = pool[(torch.searchsorted(pool, drawn[clash]) + 1) % len(pool)]
            mine = (task.example_rows == example).nonzero().flatten()
            there = starts[mine][:, None] + (columns - starts[row])
            ids[mine[:, None], there] = drawn
        found.append(Tokens(ids, tokens.mask, bos=tokens.bos, tokenizer=tokens.tokenizer))
    return found


def _share(flags: Bool[Tensor, " known"]) -> tuple[float, float, float]:
    return float(flags.double().mean()), *wilson_interval(int(flags.sum()), len(flags))
