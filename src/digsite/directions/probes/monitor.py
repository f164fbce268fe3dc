"""A direction is watched at every token while a model writes, and the chance that it fires is told beforehand.

1. The model writes on from each prompt, with a KV cache; the direction is read at every token that it wrote and read
   again, so at all but the last of each row. Prompts, padding and what follows a row's end are not read. A corpus is
   read instead where one is given: every real token but the BOS.
2. Sequences are split at random, whole prompts: on one half the tail is fitted (see `tails`), on the other it is
   checked.
3. Intervals: the sequences of the first half are drawn again, and shape, scale and rate are fitted anew, the threshold
   staying where it is.
4. Check: at several levels, the share of held-out sequences that go above, beside what the tail says of sequences of
   these lengths. The intervals hold both what the fit does not know and the chance of so few sequences; a tail that is
   right has all levels within them with a probability of 95 %.
5. Control: a normal distribution of the readings' mean and standard deviation, which is what "so many standard
   deviations" amounts to.
"""

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
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction
from digsite.directions.probes.alarm import Alarm
from digsite.directions.probes.streams import readings_of_generation, readings_of_text
from digsite.directions.probes.tails import REFUSED, Threshold, level_of_one_cluster_in, reached, tail_of
from digsite.models import Model, Sampling, Tokens, made_by
from digsite.models.measure import TokenSource

DRAWS = 200
AGAIN = 20
SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
"""4. Levels that the tail says this share of the held-out sequences exceeds."""


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
                    found=f"p = {best.p:.3f} at best of {len(self.tried)} thresholds, or a shape that changes with it",
                    do="look at the readings: a mixture of texts is read apart, or read more sequences",
                )
            )
        return self.tried[self.choice]

    @property
    def rate(self) -> float:
        """Clusters above the threshold, a token, in the sequences the tail was fitted on."""
        return self.tail.peaks / sum(map(len, self.sequences(held_out=False)))

    def sequences(self, *, held_out: bool) -> list[Float[np.ndarray, "_"]]:
        """The readings of each sequence of a half."""
        return _rows(self.readings[~self.fitted if held_out else self.fitted])

    # -- what is said of more ----------------------------------------------------------------------------------------
    def probability(self, level: int | float, tokens: int) -> tuple[float, float, float]:
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

    def return_level(self, tokens: int | float) -> tuple[float, float, float]:
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

    def alarm(self, every: int | float) -> Alarm:
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
        return Alarm(self.direction, level_of_one_cluster_in(self.sequences(held_out=False), every))

    # -- the check ---------------------------------------------------------------------------------------------------
    def check(self, *, seed: int = 0) -> pl.DataFrame:
        """4. One row a level: the share of held-out sequences that exceed it, as predicted, as observed, and as a
        normal distribution has it.

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
            many = np.concatenate([(generator.random(drawn.shape) < drawn).mean(1) for _ in range(AGAIN)])
            low, high = np.quantile(many, [0.025 / len(SHARES), 1 - 0.025 / len(SHARES)])
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
            f"{tail.shape_high:.2f}; p of the fit {tail.p:.2f}, {tail.peaks} peaks); within 1,000 tokens it exceeds "
            f"the largest reading so far, {largest:.2f}, with probability {found:.2f} (95 % {low:.2f} to {high:.2f})"
        )
        if wrong:
            named = ", ".join(f"{row['observed']:.2f} instead of {row['predicted']:.2f}" for row in wrong)
            return f"{said}; held-out sequences exceed {len(wrong)} of {len(rows)} levels not as predicted: {named}"
        return f"{said}; held-out sequences exceed all {len(rows)} levels as often as predicted"

    @property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        return self.shapes.numpy(), self.scales.numpy()

    def _above(self, level: float) -> Threshold:
        if level < self.tail.level:
            asked = f"The tail says nothing of {level:g}, which lies below its threshold"
            raise BadInput(explain(asked, possible=f"{self.tail.level:.4g} or more", do="count the readings instead"))
        return self.tail


@method
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

    Source: peaks over threshold, Pickands 1975 and Davison and Smith 1990; Coles, An Introduction to Statistical
    Modeling of Extreme Values (2001), chapters 4 and 5 (threshold choice, declustering by runs, return levels).

    Caveats:
        The tail holds for text like that which was read: other prompts, another temperature or a longer context are
        another stream. A reading above a level is no behaviour; see `causal_check`.
    """
    direction.check(model)
    if times > 1 and sample is None:
        raise BadInput(explain("The most likely continuation is the same each time", do="give sample=Sampling(…)"))
    with measure() as cost, torch.no_grad():
        if new is None:
            rows, groups = readings_of_text(model, direction, source)
        else:
            rows, groups = readings_of_generation(model, direction, source, new, sample, times)
        if len(np.unique(groups)) < 4:
            asked = "A monitor needs four sequences or more, of different prompts: half of them are held out"
            raise BadInput(explain(asked, found=f"{len(np.unique(groups))} with a token that was written and read"))
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


def _half(groups: Int[np.ndarray, " sequence"], seed: int) -> Bool[np.ndarray, " sequence"]:
    names = np.unique(groups)
    return np.isin(groups, np.random.default_rng(seed).permutation(names)[: (len(names) + 1) // 2])


def _rows(readings: Float[Tensor, "sequence step"]) -> list[Float[np.ndarray, "_"]]:
    return [row[row.isfinite()].numpy() for row in readings]
