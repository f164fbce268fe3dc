"""Head detectors: what kind of head each head is, on random repeats and on real text, each score beside its null.

1. Rows: random tokens said twice (`rows.random_repeats`), and the text that is given.
2. Kinds told by where heads look: previous token, duplicate token, induction, first token (`patterns.KINDS`), and
   "dst → src" for the labelled spans of a task. Each on every text.
3. Kinds told by what they do to logits: copy suppression, on every text.
4. Kinds told by weights alone: copying, successor (`circuits`).
5. Entropy of attention, which makes no claim.
6. On request the same in a model whose weights are shuffled.
7. A head is of a kind where the lower end of its score's interval is at least the kind's threshold and above the
   highest of its own null, and the score is above every head of the model with shuffled weights, if that was looked at.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import PurePath
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, Unsupported, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.heads.attending import ENTROPY, SUPPRESSION, look
from digsite.heads.circuits import Orders, copying, known_orders, succession
from digsite.heads.patterns import KINDS, Pairs, labelled, told_apart
from digsite.heads.rows import random_repeats
from digsite.models import Model, Tokens, made_by, untrained
from digsite.models.direct import require_a_sum
from digsite.tasks import Corpus, Task
from digsite.tasks.words import SEQUENCES

COPYING, SUCCESSOR = "copying", "successor"
ALL = (*KINDS, SUPPRESSION, COPYING, SUCCESSOR, ENTROPY)
REPEATS, WEIGHTS = "random repeats", "weights"
LABEL = "{} → {}"
UNITS = {SUPPRESSION: "logits", COPYING: "score", SUCCESSOR: "fraction", ENTROPY: "of uniform"}
THRESHOLDS = {SUPPRESSION: 0.1, COPYING: 0.8, SUCCESSOR: 0.5}
"""From which score on a head counts as one of a kind; of the kinds told by where heads look `ATTENTION`."""
ATTENTION = 0.25
BATCH = 16
"""Rows in one pass."""


@dataclass(frozen=True, eq=False, kw_only=True)
class KindScores:
    """How much each head is one of a kind, on one text.

    Attributes:
        kind: Such as "induction".
        text: What it was looked at on: "random repeats", a text's name, a task's name, or "weights".
        unit: Of the scores.
        threshold: From which score on a head counts as one; None where no claim is made.
        values: The score in each example: a row, an item of an order, or the weights as they are.
        null: The mean score where it cannot be meant, for each draw or shift; see the kind.
        random: The mean score in the model with shuffled weights; no layers if it was not looked at.
    """

    kind: str
    text: str
    unit: str
    threshold: float | None
    values: Float[Tensor, "layer head example"]
    null: Float[Tensor, "layer head draw"]
    random: Float[Tensor, "_ head"]

    @cached_property
    def mean(self) -> Float[Tensor, "layer head"]:
        """The score."""
        return self.values.mean(-1)

    @cached_property
    def interval(self) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
        """95 % bootstrap over the examples; NaN for weights, which have none."""
        return bootstrap_interval(self.values.movedim(-1, 0))

    @cached_property
    def found(self) -> Bool[Tensor, "layer head"]:
        """Which heads are of this kind; see step 7 at the head of the file."""
        if self.threshold is None:
            return torch.zeros_like(self.mean, dtype=torch.bool)
        low = self.mean if self.values.shape[-1] == 1 else self.interval[0]
        passed = (low >= self.threshold) & (low > self.null.max(-1).values)
        return passed & (self.mean > self.random.max()) if len(self.random) else passed


@dataclass(frozen=True, kw_only=True)
class HeadScores(Result):
    """What kind of head each head is.

    Attributes:
        model: The model.
        layers: Those with attention that can be looked at.
        measured: The scores, one entry for each kind on each text.
    """

    SCHEMA: ClassVar[str] = "heads.scores/1"

    model: str
    layers: tuple[int, ...]
    measured: tuple[KindScores, ...]

    def of(self, kind: str, text: str | None = None) -> KindScores:
        """The scores of one kind.

        Args:
            kind: Such as "induction".
            text: On which text; the first it was looked at on if None.

        Raises:
            BadInput: It was not measured there.
        """
        for one in self.measured:
            if one.kind == kind and text in (None, one.text):
                return one
        asked = kind if text is None else f"{kind} on {text}"
        raise BadInput(
            explain(f"{asked} was not measured", possible=[f"{one.kind} on {one.text}" for one in self.measured])
        )

    def found(self, kind: str, text: str | None = None) -> list[tuple[int, int]]:
        """The heads of a kind as (layer, head), the strongest first.

        Args:
            kind: Such as "induction".
            text: On which text they must be of it; on every one it was looked at on if None.
        """
        several = [one for one in self.measured if one.kind == kind and text in (None, one.text)] or [self.of(kind)]
        everywhere = torch.stack([one.found for one in several]).all(0)
        places = sorted(everywhere.nonzero().tolist(), key=lambda at: -float(several[0].mean[at[0], at[1]]))
        return [(self.layers[layer], head) for layer, head in places]

    def to_frame(self) -> pl.DataFrame:
        """One row for each head, kind and text: score, interval, the highest of its null, of random heads, verdict."""
        parts = []
        for one in self.measured:
            heads = one.mean.shape[1]
            low, high = one.interval
            drawn = one.null.max(-1).values
            parts.append(
                pl.DataFrame(
                    {
                        "kind": one.kind,
                        "text": one.text,
                        "layer": [layer for layer in self.layers for _ in range(heads)],
                        "head": list(range(heads)) * len(self.layers),
                        "score": one.mean.flatten().tolist(),
                        "low": low.flatten().tolist(),
                        "high": high.flatten().tolist(),
                        "null": drawn.flatten().tolist(),
                        "random": float(one.random.max()) if len(one.random) else None,
                        "unit": one.unit,
                        "found": one.found.flatten().tolist(),
                        "n": one.values.shape[-1],
                    },
                    schema_overrides={"random": pl.Float64},
                )
            )
        return pl.concat(parts).with_columns(pl.selectors.float().fill_nan(None))

    def best(self) -> pl.DataFrame:
        """The strongest head of each kind on each text; rows as in `to_frame`."""
        frame = self.to_frame().sort("score", descending=True, maintain_order=True)
        order = pl.DataFrame({"kind": [one.kind for one in self.measured], "text": [one.text for one in self.measured]})
        return order.join(frame.unique(["kind", "text"], keep="first"), on=["kind", "text"], maintain_order="left")

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        kinds = dict.fromkeys(one.kind for one in self.measured if one.threshold is not None)
        said, without, unsteady = [], [], []
        for kind in kinds:
            heads = self.found(kind)
            if heads:
                more = f" and {len(heads) - 3} more" if len(heads) > 3 else ""
                said.append(f"{kind} {', '.join(f'{layer}.{head}' for layer, head in heads[:3])}{more}")
                continue
            some = [one.text for one in self.measured if one.kind == kind and bool(one.found.any())]
            (unsteady if some else without).append(f"{kind} (on {some[0]} alone)" if some else kind)
        texts = list(dict.fromkeys(one.text for one in self.measured if one.text != WEIGHTS))
        name = PurePath(self.model).name if self.model.startswith("/") else self.model
        parts = [f"heads of {name}: {'; '.join(said) or 'none of any kind'}"]
        parts += [f"not on every text: {', '.join(unsteady)}"] if unsteady else []
        parts += [f"none found: {', '.join(without)}"] if without else []
        return "; ".join(parts) + (f"; looked at on {' and '.join(texts)}" if texts else "")


@method
def head_scores(
    model: Model,
    *,
    kinds: Sequence[str] | None = None,
    text: Tokens | Corpus | None = None,
    task: Task | None = None,
    looks: Sequence[tuple[str, str]] = (),
    rows: int = 50,
    length: int | None = None,
    random_weights: bool = False,
    orders: Orders = SEQUENCES,
    batch: int = BATCH,
    seed: int = 0,
) -> HeadScores:
    """What kind of head each head is, on random repeats and on real text, each score beside its null.

    Args:
        model: The model.
        kinds: Some of `ALL`; all that can be measured here if None.
        text: Real text, as tokens or as a corpus; all of its rows are run.
        task: Examples with labelled spans, for heads that attend by syntax or role.
        looks: Pairs (destination, source) of the task's spans; "answer" is where the answer is read.
        rows: Random repeats to draw; 0 leaves them out.
        length: Tokens of a repeated segment; see `rows.random_repeats`.
        random_weights: Look at the same model with shuffled weights too; twice the passes.
        orders: Known orders for successor heads: name -> (items, whether the last is followed by the first).
        batch: Rows in one pass.
        seed: Of every random choice.

    Returns:
        For each kind on each text: a score for every head and example, the null, and which heads are found.

    Raises:
        BadInput: A kind that is not known, nothing to look at, spans that the task does not have, or a text in which a
            kind has no place to look.
        Unsupported: No layer has an attention pattern.

    Units:
        Fractions of attention; logits for copy suppression; see `KindScores.unit`.

    Source:
        Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (copying score); Olsson et al. 2022,
        "In-context Learning and Induction Heads"; Gould et al. 2023, "Successor Heads"; McDougall et al. 2023, "Copy
        Suppression". Thresholds are ours, and so is the null. The unembedding is less its mean over tokens.

    Caveats:
        A head that looks somewhere need not do anything there: ask `confirm_heads`. On real text a token is often
        followed by what followed it before, so that a high score need not mean induction: read both texts.
    """
    chosen = _chosen(model, kinds, has_text=rows > 0 or text is not None, orders=orders)
    layers = tuple(i for i in range(model.n_layers) if model.anatomy.has((i, "attn.pattern")))
    if not layers:
        raise Unsupported(
            explain(
                "The heads of this model cannot be looked at",
                found="no layer with an attention pattern",
                do='load the model with attention="eager"',
            )
        )
    if looks and task is None:
        raise BadInput(explain("looks= names spans of a task", found="no task", do="pass task="))
    with measure() as cost:
        measured = _measured(model, layers, chosen, text, task, looks, rows, length, orders, batch, seed)
        shuffled: dict[tuple[str, str], Tensor] = {}
        if random_weights:
            control = untrained(model, seed=seed)
            again = _measured(control, layers, chosen, text, task, looks, rows, length, orders, batch, seed)
            shuffled = {(one.kind, one.text): one.mean for one in again}
    none = torch.zeros(0, model.n_heads)
    texts = [one for one in (text, None if task is None else task.clean) if one is not None]
    return HeadScores(
        model=model.name,
        layers=layers,
        measured=tuple(replace(one, random=shuffled.get((one.kind, one.text), none)) for one in measured),
        provenance=made_by(
            f"digsite.head_scores(model, kinds={list(chosen)}, text=text, task=task, looks={list(looks)}, rows={rows}, "
            f"length={length}, random_weights={random_weights}, seed={seed})",
            model,
            "+".join(one.fingerprint for one in texts) or None,
            seed=seed,
        ),
        cost=cost,
    )


def _chosen(model: Model, kinds: Sequence[str] | None, *, has_text: bool, orders: Orders) -> tuple[str, ...]:
    """The kinds that are asked for, or all that can be measured."""
    if kinds is not None:
        if unknown := [kind for kind in kinds if kind not in ALL]:
            raise BadInput(explain(f"{unknown[0]!r} is no kind of head", possible=ALL, near=unknown[0]))
        if {SUPPRESSION, COPYING, SUCCESSOR} & set(kinds):
            require_a_sum(model)
        return tuple(kinds)
    chosen = [kind for kind in (*KINDS, ENTROPY) if has_text]
    chosen += [SUCCESSOR] if known_orders(model, orders) else []
    try:
        require_a_sum(model)
    except Unsupported:
        return tuple(kind for kind in chosen if kind != SUCCESSOR)
    return (*chosen, COPYING, *([SUPPRESSION] if has_text else []))


Batches = Callable[[], Iterator[tuple[Tokens, Mapping[str, Pairs]]]]


def _measured(
    model: Model,
    layers: tuple[int, ...],
    chosen: Sequence[str],
    text: Tokens | Corpus | None,
    task: Task | None,
    looks: Sequence[tuple[str, str]],
    rows: int,
    length: int | None,
    orders: Orders,
    batch: int,
    seed: int,
) -> list[KindScores]:
    """1. to 5. of the head of the file, in one model."""
    seen = [kind for kind in chosen if kind in KINDS]
    also = {kind for kind in chosen if kind in (ENTROPY, SUPPRESSION)}
    texts: list[tuple[str, Batches, set[str]]] = []
    if rows and (seen or also):
        drawn = random_repeats(model, rows, length=length, seed=seed)
        texts.append((REPEATS, partial(_batches, drawn, seen, batch), also))
    if text is not None:
        texts.append((text.name if isinstance(text, Corpus) else "text", partial(_batches, text, seen, batch), also))
    if task is not None and looks:
        texts.append((task.name, partial(_labelled_batches, task, looks, batch), set()))
    found = []
    for name, batches, more in texts:
        for kind, one in look(model, track(batches(), f"heads on {name}"), layers, more).items():
            found.append(_scores(kind, name, *one.joined()))
    if COPYING in chosen:
        found.append(_scores(COPYING, WEIGHTS, *copying(model, layers, seed=seed)))
    if SUCCESSOR in chosen:
        found.append(_scores(SUCCESSOR, WEIGHTS, *succession(model, layers, orders)))
    return found


def _batches(text: Tokens | Corpus, kinds: Sequence[str], batch: int) -> Iterator[tuple[Tokens, dict[str, Pairs]]]:
    for tokens in text.batches(batch):
        pairs = told_apart(tokens)
        yield tokens, {kind: pairs[kind] for kind in kinds}


def _labelled_batches(
    task: Task, looks: Sequence[tuple[str, str]], batch: int
) -> Iterator[tuple[Tokens, dict[str, Pairs]]]:
    for start in range(0, len(task), batch):
        part = task.take(slice(start, start + batch))
        yield part.clean, {LABEL.format(dst, src): labelled(part, dst, src) for dst, src in looks}


def _scores(kind: str, text: str, values: Tensor, null: Tensor) -> KindScores:
    claims = kind != ENTROPY
    return KindScores(
        kind=kind,
        text=text,
        unit=UNITS.get(kind, "fraction"),
        threshold=THRESHOLDS.get(kind, ATTENTION) if claims else None,
        values=values,
        null=null,
        random=torch.zeros(0, values.shape[1]),
    )
