"""A direction is watched at every token while a model writes, and the chance that it fires is told beforehand.

1. The model writes on from each prompt, with a KV cache; the direction is read at every token that it wrote and read
   again, so at all but the last of each row. Prompts, padding and what follows a row's end are not read. A corpus is
   read instead where one is given: every real token but the BOS.
2. Sequences are split at random, whole prompts: on one half the tail is fitted (see `tails`), on the other it is checked.
3. Intervals: the sequences of the first half are drawn again, and shape, scale and rate are fitted anew, the threshold
   staying where it is.
4. Check: at several levels, the number of held-out sequences that go above, beside what the tail says of sequences of
   these lengths. The 95 % interval holds both what the fit does not know and the chance of so few sequences.
5. Control: a normal distribution of the readings' mean and standard deviation, which is what "so many standard deviations"
   amounts to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import genpareto, norm
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite._core.progress import track
from digsite.artifacts import Result
from digsite.directions.direction import Direction
from digsite.directions.measuring import content
from digsite.directions.probes.prompts import BATCH
from digsite.directions.probes.tails import REFUSED, Threshold, chosen, pareto_fit, peaks, reached, thresholds
from digsite.models import Model, Sampling, Tokens, made_by
from digsite.models.measure import TokenSource

DRAWS = 200
SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
"""The check: levels that the tail says this share of the held-out sequences exceeds."""


@dataclass(frozen=True, kw_only=True)
class StreamMonitor(Result):
    """Readings of a direction token by token, and their tail.

    Attributes:
        direction: What is read.
        readings: One for each token; NaN after the end of a sequence.
        groups: The prompt of each sequence.
        fitted: Which sequences the tail was fitted on; the others are held out.
        tried: The tails above several thresholds.
        choice: Which of them was taken; None where none fits.
        shapes: Of the tail, for sequences drawn again.
        scales: Of the tail.
        rates: Clusters a token, for sequences drawn again.
    """

    SCHEMA: ClassVar[str] = "directions.stream_monitor/1"

    direction: Direction
    readings: Float[Tensor, "sequence step"]
    groups: Int[Tensor, " sequence"]
    fitted: Bool[Tensor, " sequence"]
    tried: tuple[Threshold, ...]
    choice: int | None
    shapes: Float[Tensor, " draw"]
    scales: Float[Tensor, " draw"]
    rates: Float[Tensor, " draw"]

    # -- what was seen -----------------------------------------------------------------------------------------------
    @property
    def tail(self) -> Threshold:
        """The tail that fits.

        Raises:
            BadInput: None does.
        """
        if self.choice is None:
            best = max(self.tried, key=lambda one: one.p)
            raise BadInput(
                explain(
                    "Nothing is said of levels beyond those that were seen, because no tail fits the readings",
                    found=f"p = {best.p:.3f} at the best of {len(self.tried)} thresholds, or a shape that changes with it",
                    do="look at the readings: a mixture of texts is read apart, or read more sequences",
                )
            )
        return self.tried[self.choice]

    @property
    def rate(self) -> float:
        """Clusters above the threshold, a token, in the sequences the tail was fitted on."""
        return self.tail.peaks / sum(map(len, self.sequences(held_out=False)))

    def sequences(self, *, held_out: bool) -> list[Float[np.ndarray, " step"]]:
        """The readings of each sequence of a half."""
        return _rows(self.readings[~self.fitted if held_out else self.fitted])

    # -- what is said of more ----------------------------------------------------------------------------------------
    def probability(self, level: float, tokens: int) -> tuple[float, float, float]:
        """The chance that the direction reads more than a level within so many new tokens, with its 95 % interval.

        Args:
            level: At or above the threshold of the tail.
            tokens: How many tokens.

        Raises:
            BadInput: No tail fits, or the level lies below its threshold.
        """
        tail = self._above(level)
        known = reached(level, tokens, threshold=tail.level, rate=self.rate, tail=(tail.shape, tail.scale))
        drawn = reached(level, tokens, threshold=tail.level, rate=self.rates.numpy(), tail=self._drawn)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(known), float(low), float(high)

    def return_level(self, tokens: float) -> tuple[float, float, float]:
        """The level that is exceeded once in so many tokens, with its 95 % interval.

        Raises:
            BadInput: No tail fits, or clusters are rarer than that at its threshold already.
        """
        tail = self.tail
        if tokens * self.rate < 1:
            asked = f"The level that is exceeded once in {tokens:g} tokens lies below the threshold of the tail"
            raise BadInput(explain(asked, possible=f"{1 / self.rate:.0f} tokens or more"))
        known = tail.level + genpareto.isf(1 / (tokens * self.rate), tail.shape, scale=tail.scale)
        part = np.minimum(1, 1 / (tokens * self.rates.numpy()))
        low, high = np.quantile(genpareto.isf(part, self._drawn[0], scale=self._drawn[1]), [0.025, 0.975])
        return float(known), float(tail.level + low), float(tail.level + high)

    def alarm(self, every: float) -> "Alarm":
        """An alarm that goes off falsely once in so many tokens of text like this.

        Args:
            every: Tokens from one false alarm to the next, on average.

        Raises:
            BadInput: No tail fits and fewer tokens were read than that.
        """
        if self.choice is not None and every * self.rate >= 1:
            return Alarm(self.direction, self.return_level(every)[0])
        seen = np.concatenate(self.sequences(held_out=False))
        if every > len(seen):
            asked = f"An alarm that is false once in {every:g} tokens needs a tail that fits, or as many tokens"
            raise BadInput(explain(asked, found=f"no tail fits, {len(seen):,} tokens read"))
        return Alarm(self.direction, _clusters_every(self.sequences(held_out=False), every))

    # -- the check ---------------------------------------------------------------------------------------------------
    def check(self, *, seed: int = 0) -> pl.DataFrame:
        """4. One row a level: the share of held-out sequences that exceed it, as predicted, as observed, and as a normal
        distribution has it.

        Raises:
            BadInput: No tail fits.
        """
        tail, held = self.tail, self.sequences(held_out=True)
        lengths = np.array([len(one) for one in held])
        largest = np.array([one.max() for one in held])
        seen = np.concatenate(self.sequences(held_out=False))
        generator = np.random.default_rng(seed)
        rows = []
        for share in SHARES:
            level = self._exceeded_by(share, lengths)
            if level is None:
                continue
            ask = {"threshold": tail.level, "tail": (tail.shape, tail.scale)}
            known = reached(level, lengths, rate=self.rate, **ask).mean()
            xi, sigma = (values[:, None] for values in self._drawn)
            drawn = reached(
                level, lengths[None], threshold=tail.level, rate=self.rates.numpy()[:, None], tail=(xi, sigma)
            )
            low, high = np.quantile((generator.random(drawn.shape) < drawn).mean(1), [0.025, 0.975])
            normal = -np.expm1(lengths * norm.logcdf(level, seen.mean(), seen.std())).mean()
            observed = float((largest > level).mean())
            rows.append(
                {
                    "level": level,
                    "predicted": float(known),
                    "low": float(low),
                    "high": float(high),
                    "observed": observed,
                    "normal": float(normal),
                    "within": bool(low <= observed <= high),
                    "n": len(held),
                }
            )
        return pl.DataFrame(rows)

    def _exceeded_by(self, share: float, lengths: np.ndarray) -> float | None:
        """The level that about this share of sequences exceeds; None where that lies below the threshold."""
        tail = self.tail
        once = -np.log1p(-share) / lengths.mean() / self.rate
        return None if once > 1 else tail.level + float(genpareto.isf(once, tail.shape, scale=tail.scale))

    def to_frame(self) -> pl.DataFrame:
        """One row a threshold that was tried; `taken` says which is used."""
        frame = pl.DataFrame([vars(one) for one in self.tried])
        return frame.with_columns(pl.Series("taken", [at == self.choice for at in range(len(self.tried))]))

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        seen = int(self.readings.isfinite().sum())
        head = f"{self.direction.name or self.direction.how} at {self.direction.site}, {seen:,} tokens of "
        head += f"{len(self.readings)} sequences: "
        largest = np.concatenate(self.sequences(held_out=False)).max()
        if self.choice is None:
            best = max(one.p for one in self.tried)
            return (
                f"{head}no tail fits at any of {len(self.tried)} thresholds (best p = {best:.3f}, {REFUSED} is needed, "
                f"with a shape that higher thresholds agree on), so nothing is said beyond the largest reading, "
                f"{largest:.2f}"
            )
        tail, rows = self.tail, self.check().to_dicts()
        wrong = [row for row in rows if not row["within"]]
        found, low, high = self.probability(float(largest), 1000)
        said = (
            f"{head}above {tail.level:.2f} the tail has shape {tail.shape:.2f} (95 % {tail.shape_low:.2f} to "
            f"{tail.shape_high:.2f}; p of the fit {tail.p:.2f}, {tail.peaks} peaks); within 1,000 tokens it exceeds the "
            f"largest reading so far, {largest:.2f}, with probability {found:.2f} (95 % {low:.2f} to {high:.2f})"
        )
        if wrong:
            named = ", ".join(f"{row['observed']:.2f} instead of {row['predicted']:.2f}" for row in wrong)
            return f"{said}; held-out sequences exceed {len(wrong)} of {len(rows)} levels otherwise than predicted: {named}"
        return f"{said}; held-out sequences exceed all {len(rows)} levels as often as predicted"

    @property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        return self.shapes.numpy(), self.scales.numpy()

    def _above(self, level: float) -> Threshold:
        if level < self.tail.level:
            asked = f"The tail says nothing of {level:g}, which lies below its threshold"
            raise BadInput(explain(asked, possible=f"{self.tail.level:.4g} or more", do="count the readings instead"))
        return self.tail


class Alarm:
    """Watches a direction while a model writes, one token of each row after the other.

    Attributes:
        direction: What is read.
        level: A reading above it sets the alarm off.
        tokens: How many tokens were seen.
        first: For each row the number of the token that set it off, None where none did.
    """

    def __init__(self, direction: Direction, level: float):
        self.direction, self.level = direction, level
        self.tokens, self.first = 0, ()

    def see(self, x: Float[Tensor, "row width"]) -> Bool[Tensor, " row"]:
        """Which rows fire at this token.

        Args:
            x: The activations of the newest token of each row at the direction's site.

        Raises:
            ShapeMismatch: Activations of another width.
            BadInput: Another number of rows than before.
            NotFinite: An activation is NaN or infinite.
        """
        fires = self.direction.read(require_finite("an activation", x)) > self.level
        before = self.first if self.tokens else (None,) * len(fires)
        if len(before) != len(fires):
            asked = "An alarm sees the same rows at each token"
            raise BadInput(explain(asked, found=f"{len(fires)} rows, {len(before)} before"))
        now = zip(before, fires.tolist(), strict=True)
        self.first = tuple(self.tokens if fire and first is None else first for first, fire in now)
        self.tokens += 1
        return fires


def monitor(
    model: Model,
    direction: Direction,
    source: Tokens | TokenSource,
    *,
    new: int | None = 64,
    sample: Sampling | None = None,
    times: int = 1,
    draws: int = DRAWS,
    seed: int = 0,
) -> StreamMonitor:
    """How probable is it that a direction fires while the model writes?

    Args:
        model: The model.
        direction: What is read, with its bias.
        source: Prompts that the model goes on from; or with `new=None` text that is only read.
        new: Most tokens that it writes for each prompt; None to read the source as it stands.
        sample: How tokens are drawn; None takes the most likely one each time.
        times: How often each prompt is continued, with another seed each time; needs `sample`.
        draws: Of the goodness of fit and of the intervals.
        seed: Of the split and of the draws.

    Raises:
        BadInput: The direction is not this model's, a sequence without a reading, too few clusters above any threshold.
        NotFinite: A reading is NaN or infinite.

    Units: those of the direction's readings; probabilities, fractions.

    Source: peaks over threshold, Pickands 1975 and Davison and Smith 1990; Coles, An Introduction to Statistical Modeling of
    Extreme Values (2001), chapters 4 and 5 (threshold choice, declustering by runs, return levels).

    Caveats:
        The tail holds for text like that which was read: other prompts, another temperature or a longer context are another
        stream. A reading above a level is no behaviour; see `causal_check`.
    """
    direction.check(model)
    if times > 1 and sample is None:
        raise BadInput(explain("The most likely continuation is the same each time", do="give sample=Sampling(…)"))
    with measure() as cost, torch.no_grad():
        if new is None:
            rows, groups = _of_text(model, direction, source)
        else:
            rows, groups = _of_generation(model, direction, source, new, sample, times)
        fitted = _half(groups, seed)  # 2
        found = tail_of(rows, groups, fitted, draws=draws, seed=seed)
    call = f"digsite.directions.probes.monitor(model, direction, source, new={new}, times={times}, seed={seed})"
    longest = max(map(len, rows))
    padded = [np.pad(row, (0, longest - len(row)), constant_values=np.nan) for row in rows]
    return StreamMonitor(
        direction=direction,
        readings=torch.from_numpy(np.stack(padded)),
        groups=torch.from_numpy(groups),
        fitted=torch.from_numpy(fitted),
        tried=found.tried,
        choice=found.choice,
        shapes=torch.from_numpy(found.shapes),
        scales=torch.from_numpy(found.scales),
        rates=torch.from_numpy(found.rates),
        provenance=made_by(call, model, source.fingerprint, seed=seed),
        cost=cost,
    )


@dataclass(frozen=True, eq=False)
class _Tail:
    tried: tuple[Threshold, ...]
    choice: int | None
    shapes: Float[np.ndarray, " draw"]
    scales: Float[np.ndarray, " draw"]
    rates: Float[np.ndarray, " draw"]


def tail_of(
    rows: Sequence[Float[np.ndarray, " step"]],
    groups: Int[np.ndarray, " sequence"],
    fitted: Bool[np.ndarray, " sequence"],
    *,
    draws: int,
    seed: int,
) -> _Tail:
    """3. The tail of the sequences it is fitted on, with what drawing their groups again makes of it."""
    inside = [row for row, use in zip(rows, fitted, strict=True) if use]
    tried = thresholds(inside, draws=draws, seed=seed)
    choice = chosen(tried)
    if choice is None:
        return _Tail(tried, None, *(np.zeros(0) for _ in range(3)))
    level = tried[choice].level
    excess = [one - level for one in peaks(inside, level)]
    names, member = np.unique(groups[fitted], return_inverse=True)
    parts = [np.concatenate([excess[i] for i in np.flatnonzero(member == at)]) for at in range(len(names))]
    tokens = np.bincount(member, weights=[len(row) for row in inside])
    generator, found = np.random.default_rng([seed, 3]), []
    for _ in range(draws):
        again = generator.integers(0, len(names), len(names))
        drawn = np.concatenate([parts[at] for at in again])
        if len(drawn) > 1:
            found.append((*pareto_fit(drawn), len(drawn) / tokens[again].sum()))
    return _Tail(tried, choice, *np.array(found, dtype=float).T)


def _of_generation(
    model: Model, direction: Direction, prompts: Tokens | TokenSource, new: int, sample: Sampling | None, times: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """1. The readings of every token that was written and read again."""
    if not isinstance(prompts, Tokens):
        raise BadInput(explain("A model goes on from prompts", do="give model.tokens([…]), or new=None to read a corpus"))
    if new < 2:
        raise BadInput(explain(f"new={new} leaves no token to read", possible="2 or more: no pass reads the last one"))
    rows: list[np.ndarray] = []
    groups: list[int] = []
    plan = [(turn, start) for turn in range(times) for start in range(0, len(prompts), BATCH)]
    for turn, start in track(plan, "writing"):
        part = prompts[slice(start, start + BATCH)]
        drawn = sample
        if sample is not None:  # a seed of its own for each batch, or all of them would draw alike
            drawn = Sampling(
                temperature=sample.temperature,
                top_k=sample.top_k,
                top_p=sample.top_p,
                seed=sample.seed + turn * len(prompts) + start,
            )
        made = model.generate(part, max_new_tokens=new, read=[direction.site], sample=drawn)
        scores, tokens = direction.read(made).double().cpu(), made.run.tokens
        width = made.prompt.ids.shape[1]
        for at, (row, real) in enumerate(zip(scores[:, width:], tokens.mask[:, width:], strict=True)):
            if bool(real.any()):
                rows.append(require_finite("a reading", row[real]).numpy())
                groups.append(start + at)
    return _some(rows), np.array(groups)


def _of_text(model: Model, direction: Direction, source: TokenSource) -> tuple[list[np.ndarray], np.ndarray]:
    """1. The readings of every token of a text but the BOS."""
    rows = []
    for tokens in source.batches(BATCH):
        scores = direction.read(model.run(tokens, read=[direction.site], logits=None)).double().cpu()
        for row, keep in zip(scores, content(tokens, model.tokenizer), strict=True):
            if bool(keep.any()):
                rows.append(require_finite("a reading", row[keep]).numpy())
    return _some(rows), np.arange(len(rows))


def _some(rows: list[np.ndarray]) -> list[np.ndarray]:
    if len(rows) < 4:
        asked = "A monitor needs four sequences or more, half of which are held out"
        raise BadInput(explain(asked, found=f"{len(rows)} with a token that was written and read"))
    return rows


def _half(groups: Int[np.ndarray, " sequence"], seed: int) -> Bool[np.ndarray, " sequence"]:
    names = np.unique(groups)
    return np.isin(groups, np.random.default_rng(seed).permutation(names)[: (len(names) + 1) // 2])


def _rows(readings: Float[Tensor, "sequence step"]) -> list[Float[np.ndarray, " step"]]:
    return [row[row.isfinite()].numpy() for row in readings]


def _clusters_every(rows: Sequence[np.ndarray], every: float) -> float:
    """The lowest level that is exceeded by at most one cluster in so many tokens of these sequences."""
    allowed = int(sum(map(len, rows)) / every)
    levels = np.unique(np.concatenate(rows))
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if sum(map(len, peaks(rows, float(levels[middle])))) <= allowed:
            high = middle
        else:
            low = middle + 1
    return float(levels[low])
