"""Which lens reads the stream best, on the same tokens of a text that none was fitted on.

1. The text goes through the model a few rows at a time. What every lens says at every point is made some tokens at a
   time and dropped again; kept are a few sums for each row of text.
2. For each lens, point and row of text, means over its tokens: KL(model ‖ lens), how often both have the same token on
   top, and what the next token costs by the lens (cross entropy).
3. Bias: KL(p̄ model ‖ p̄ lens) of what each says on average over the whole text. It is what stays of the KL where the
   lens leans towards the same tokens everywhere.
4. Controls, on the same tokens: the lens given the stream of another token of the batch, drawn at random; the best
   constant answer, p̄ model itself; and what the token alone says, counted in another text.

A future lens is held against what the model says so many tokens later, and so are its controls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.lenses.bigram import Bigram, count_bigrams
from digsite.lenses.lens import Lens, point_names, same_model, stream_points
from digsite.lenses.passages import Passage, log_probs, passages
from digsite.models import Model, Tokens, made_by
from digsite.models.prediction import kl
from digsite.tasks import Corpus

_AT_ONCE = 2**20
"""Numbers of one tensor of logits."""
_SUMS = ("kl", "null", "agree", "ce")


@dataclass(frozen=True, kw_only=True)
class LensComparison(Result):
    """How near to the model each lens is at each point of the stream, on the same tokens.

    Numbers are NaN where a lens does not read a point.

    Attributes:
        lenses: Their names.
        ahead: How many tokens ahead each looks.
        sites: The points.
        kl: KL from the model to the lens.
        null: The same for the lens that is given the stream of another token.
        agree: How often the lens has the model's token on top.
        ce: What the next token costs by the lens.
        bias: KL between what model and lens say on average.
        model_ce: What the next token costs by the model, as many tokens ahead as each lens looks.
        constant: KL from the model to the best constant answer.
        alone: KL from the model to what the token alone says; NaN where no text was given to count in.
        last: Largest difference of the lens's logits at the last point from the model's; NaN for future lenses.
        tokens: Tokens that were judged.
    """

    SCHEMA: ClassVar[str] = "lenses.comparison/1"

    lenses: tuple[str, ...]
    ahead: tuple[int, ...]
    sites: tuple[str, ...]
    kl: Float[Tensor, "lens depth example"]
    null: Float[Tensor, "lens depth example"]
    agree: Float[Tensor, "lens depth example"]
    ce: Float[Tensor, "lens depth example"]
    bias: Float[Tensor, "lens depth"]
    model_ce: Float[Tensor, "lens example"]
    constant: Float[Tensor, "lens example"]
    alone: Float[Tensor, "lens example"]
    last: Float[Tensor, " lens"]
    tokens: int

    @property
    def area(self) -> Float[Tensor, " lens"]:
        """Mean KL over all points but the last, where every lens is the model; nats."""
        return self.kl[:, :-1].mean(-1).nanmean(-1)

    def to_frame(self) -> pl.DataFrame:
        """One row a lens and point: KL with its 95 % interval, the other numbers, and the controls."""
        rows, names = [], point_names(self.sites)
        for i, lens in enumerate(self.lenses):
            for j, point in enumerate(names):
                if not bool(self.kl[i, j].isfinite().all()):
                    continue
                low, high = bootstrap_interval(self.kl[i, j])
                numbers = {name: float(getattr(self, name)[i, j].mean()) for name in ("agree", "ce", "bias", "null")}
                rows.append(
                    {"lens": lens, "ahead": self.ahead[i], "point": point, "kl": float(self.kl[i, j].mean())}
                    | {"low": float(low), "high": float(high), **numbers}
                    | {"constant": float(self.constant[i].mean()), "token_alone": float(self.alone[i].mean())}
                    | {"n": self.kl.shape[2]}
                )
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        now = [i for i, ahead in enumerate(self.ahead) if not ahead] or list(range(len(self.lenses)))
        order = sorted(now, key=lambda i: float(self.area[i]))
        said = ", ".join(f"{self.lenses[i]} {float(self.area[i]):.2f}" for i in order)
        best = order[0]
        names, frame = point_names(self.sites), self.to_frame().filter(lens=self.lenses[best]).to_dicts()
        failed = [
            f"{what} ({frame[0][key]:.2f}) at {', '.join(points)}"
            for key, what in (("constant", "the best constant answer"), ("token_alone", "the token alone"))
            if (points := [row["point"] for row in frame if row["point"] != names[-1] and row["high"] >= row[key]])
        ]
        failed += [
            f"itself on another token at {', '.join(points)}"
            for points in [[row["point"] for row in frame if row["high"] >= row["null"]]]
            if points
        ]
        lost = f"; {self.lenses[best]} is no nearer than {' and '.join(failed)}" if failed else ""
        return (
            f"{self.lenses[best]} is the nearest to the model over the layers below the last (mean KL in nats: {said})"
            f"{lost}; n = {self.kl.shape[2]} rows of text, {self.tokens:,} tokens"
        )


@method
def compare_lenses(
    model: Model,
    corpus: Corpus | Tokens,
    lenses: Sequence[Lens] | Mapping[str, Lens],
    *,
    learn: Corpus | None = None,
    batch: int = 4,
    rows: int | None = 64,
    seed: int = 0,
) -> LensComparison:
    """How near to the model several lenses are, at every point of the stream, on the same held-out tokens.

    Args:
        model: The model.
        corpus: Text that no lens was fitted on.
        lenses: Lenses of this model; by name, where two are of one kind.
        learn: Text to count in what a token alone says; None leaves that control out.
        batch: Rows of text in a pass.
        rows: Rows of text that are used; None for all.
        seed: Of the tokens that are exchanged for the null.

    Raises:
        BadInput: No lens, two of one name, one of another model, one that was fitted on this very text, or too little
            text.
        NotFinite: The model says a NaN.

    Units: nats per token; agreement is a fraction; the area is the mean KL over all points but the last.

    Source:
        Belrose et al. 2023 (arXiv:2303.08112), section 3, for KL and bias of the marginal.

    Caveats:
        A small KL says that a lens predicts the model's answer, not that the model uses what it reads: see
        `causal_agreement`.
        The constant answer is that of the judged tokens themselves, the best there is. What the token alone says is
        counted in a text: where the model does not speak as the text does (short documents packed into one row), it is
        the weaker control.
    """
    named = dict(lenses) if isinstance(lenses, Mapping) else {lens.name: lens for lens in lenses}
    _check(model, corpus, named, len(lenses))
    points, ahead = stream_points(model), max(lens.ahead for lens in named.values())
    far = sorted({lens.ahead for lens in named.values()})
    draw = torch.Generator().manual_seed(seed)
    with measure() as cost, torch.no_grad():
        alone = {} if learn is None else {n: count_bigrams(model, learn, ahead=n) for n in far}
        tallies = {name: _Tally(len(points)) for name in named}
        own = {n: _Own() for n in far}
        text = passages(model, corpus, points, ahead=ahead, batch=batch, rows=rows)
        for passage in track(text, "comparing lenses", None if rows is None else -(-rows // batch)):  # 1.
            other = torch.randperm(len(passage.ids()), generator=draw)
            for n in far:
                own[n].add(passage, n, alone.get(n))
            for name, lens in named.items():
                tallies[name].add(lens, passage, points, other)
    found = {name: tally.means() for name, tally in tallies.items()}
    whole = [own[lens.ahead] for lens in named.values()]
    return LensComparison(
        lenses=tuple(named),
        ahead=tuple(lens.ahead for lens in named.values()),
        sites=points,
        **{key: torch.stack([found[name][key] for name in named]) for key in _SUMS},
        bias=torch.stack([tallies[name].bias(own[lens.ahead]) for name, lens in named.items()]),
        model_ce=torch.stack([each.mean("ce") for each in whole]),
        constant=torch.stack([each.constant for each in whole]),
        alone=torch.stack([each.mean("alone") for each in whole]),
        last=torch.tensor([tallies[name].last if not lens.ahead else torch.nan for name, lens in named.items()]),
        tokens=whole[0].tokens,
        provenance=made_by(
            f"digsite.lenses.compare_lenses(model, corpus, [{', '.join(named)}], rows={rows})",
            model,
            corpus.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def _check(model: Model, corpus: Corpus | Tokens, named: Mapping[str, Lens], given: int) -> None:
    if not named or len(named) < given:
        found = "none" if not given else "two of one name"
        raise BadInput(explain("Lenses are compared by name", found=found, do='give {"a": lens, "b": other}'))
    for name, lens in named.items():
        same_model(lens, model)
        if lens.origin.get("tokens") == corpus.fingerprint:
            asked = f"The {name} lens was fitted on this text"
            raise BadInput(explain(asked, do="judge it on another: learn, held_out = corpus.split(rows)"))


class _Own:
    """What the model itself says `ahead` tokens later, row of text by row of text, and its controls."""

    def __init__(self):
        self.each: dict[str, list[Tensor]] = {"ce": [], "alone": [], "constant": []}
        self.marginals: list[Tensor] = []  # what it says on average in each row of text
        self.counts: list[int] = []

    def add(self, passage: Passage, ahead: int, bigram: Bigram | None) -> None:
        logits, rows, ids = passage.logits(ahead), passage.rows, passage.ids()
        then = passage.ids(ahead + 1).to(logits.device)
        for row in range(int(rows.max()) + 1):  # a row of text at a time: log probabilities are as large as the logits
            of_it = rows == row
            own, told = log_probs(logits[of_it.to(logits.device)]), then[of_it.to(then.device)]
            self.each["ce"].append(-own.gather(1, told[:, None]).mean())
            # 4. Of the constant answer what does not depend on the constant: Σ p log p.
            self.each["constant"].append((own.exp() * own).sum(-1).mean())
            alone = None if bigram is None else bigram.log_probs(ids[of_it]).to(own.device)
            self.each["alone"].append(torch.tensor(torch.nan) if alone is None else kl(own, alone).mean())
            self.marginals.append(own.exp().mean(0).cpu())
            self.counts.append(len(own))

    @property
    def tokens(self) -> int:
        return sum(self.counts)

    @property
    def marginal(self) -> Float[Tensor, " vocab"]:
        """3. What it says on average over all tokens."""
        return torch.stack(self.marginals).double().T @ torch.tensor(self.counts).double() / self.tokens

    @property
    def constant(self) -> Float[Tensor, " example"]:
        """4. KL to the best constant answer, which is the marginal: Σ p log p - Σ p log p̄."""
        crossed = torch.stack(self.marginals).double() @ self.marginal.clamp(min=1e-300).log()
        return (self.mean("constant").double() - crossed).float()

    def mean(self, key: str) -> Float[Tensor, " example"]:
        return torch.stack(self.each[key]).float().cpu()


class _Tally:
    """The sums of one lens."""

    def __init__(self, depth: int):
        self.sums: list[Tensor] = []  # [4, depth, rows of text in the batch], of each batch
        self.marginal: list[Tensor | None] = [None] * depth
        self.last = 0.0

    def add(self, lens: Lens, passage: Passage, points: tuple[str, ...], other: Tensor) -> None:
        """2. One batch, some tokens of one point at a time."""
        answers = passage.logits(lens.ahead)
        then = passage.ids(lens.ahead + 1).to(answers.device)
        parts, found = torch.arange(len(answers)).split(max(1, _AT_ONCE // answers.shape[1])), []
        for at, site in enumerate(points):
            if site not in lens.sites:
                found.append(torch.full((len(_SUMS), int(passage.rows.max()) + 1), torch.nan))
                continue
            stream, each = passage.stream(site), []
            for part in parts:
                raw = lens.logits(stream[part], site)
                said, elsewhere = log_probs(raw), log_probs(lens.logits(stream[other[part]], site))
                each.append(_scored(log_probs(answers[part]), said, elsewhere, then[part]))
                self._lean(at, said)
                if at == len(points) - 1 and not lens.ahead:
                    self.last = max(self.last, float((raw - answers[part]).abs().max()))
            found.append(passage.by_row(torch.cat(each, 1)))
        self.sums.append(torch.stack(found, 1))

    def _lean(self, at: int, said: Tensor) -> None:
        total, so_far = said.exp().sum(0).double(), self.marginal[at]
        self.marginal[at] = total if so_far is None else so_far + total

    def means(self) -> dict[str, Float[Tensor, "depth example"]]:
        return dict(zip(_SUMS, torch.cat(self.sums, 2), strict=True))

    def bias(self, own: _Own) -> Float[Tensor, " depth"]:
        """3. KL(p̄ model ‖ p̄ lens)."""
        own_log = own.marginal.clamp(min=1e-300).log()
        each = [
            torch.nan if m is None else float(kl(own_log, (m / m.sum()).cpu().clamp(min=1e-300).log()))
            for m in self.marginal
        ]
        return torch.tensor(each)


def _scored(own: Tensor, said: Tensor, elsewhere: Tensor, then: Tensor) -> Float[Tensor, "quantity row"]:
    """2. and 4. of some tokens, in the order of `_SUMS`."""
    agree = (own.argmax(-1) == said.argmax(-1)).float()
    return torch.stack([kl(own, said), kl(own, elsewhere), agree, -said.gather(1, then[:, None])[:, 0]])
