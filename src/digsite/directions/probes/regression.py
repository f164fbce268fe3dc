"""How large is it: a position or coordinates read by ridge, judged on held-out texts (`stacked` has the steps)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import ratio_interval, require_finite
from digsite._core.recording import method
from digsite.directions.probes.solving import SHRINKS, least_squares
from digsite.directions.probes.stacked import Stack, Weights, fitted, gathered, patterns, thrifty
from digsite.models import Model, Tokens, made_by
from digsite.models.tokens import Positions
from digsite.sites import Site


@dataclass(frozen=True, kw_only=True)
class NumberProbe(Stack):
    """How well some numbers can be read at a site.

    Attributes:
        known: The numbers of the held-out examples.
        said: What the probe says they are.
        null: R² with the numbers of other groups.
    """

    SCHEMA: ClassVar[str] = "directions.number_probe/1"

    known: Float[Tensor, "example target"]
    said: Float[Tensor, "example target"]
    null: Float[Tensor, " draw"]

    def towards(
        self, x: Float[Tensor, "*axes width"], numbers: Float[Tensor, "*#axes target"]
    ) -> Float[Tensor, "*axes width"]:
        """What to add to activations so that these numbers are read, along the directions in which they are written.

        `digsite.add(site, probe.towards(run[site][:, at], numbers), at=at)` puts them there: what the model does then,
        beside equal changes in random directions, says whether it uses what the probe reads.

        Args:
            x: The activations as they are.
            numbers: What is to be read of each.
        """
        written, reads = self.vectors.to(x.device, torch.float64), self.readers.to(x.device, torch.float64)
        missing = numbers.to(x.device, torch.float64) - x.double() @ reads.T - self.biases.to(x.device, torch.float64)
        return (missing @ torch.linalg.pinv(written @ reads.T, rtol=1e-5) @ written).to(x.dtype)

    @property
    def r2(self) -> float:
        """The share of the variance of all numbers together that is read, on held-out examples."""
        return explained(self.said, self.known)

    def to_frame(self) -> pl.DataFrame:
        """One row a number, and one for all: R² with its 95 % bootstrap interval, and the typical error."""
        wrong, spread = (self.said - self.known).square(), (self.known - self.known.mean(0)).square()
        parts = [(name, wrong[:, at], spread[:, at]) for at, name in enumerate(self.names)]
        rows = []
        for name, above, below in [*parts, ("all", wrong.sum(1), spread.sum(1))]:
            low, high = ratio_interval(above, below)
            r2 = 1 - float(above.sum() / below.sum())
            error = float(above.mean().sqrt())
            rows.append({"number": name, "r2": r2, "low": 1 - float(high), "high": 1 - float(low), "rmse": error})
        return pl.DataFrame(rows).with_columns(n=pl.lit(len(self.known)))

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        whole = self.to_frame().to_dicts()[-1]
        reached = float(self.null.quantile(0.975)) if len(self.null) else None
        null = "" if reached is None else f"; numbers of other groups up to {reached:.2f} (95 %)"
        lost = ", so nothing is shown to be read" if max(0.0, reached or 0.0) >= whole["low"] else ""
        return (
            f"{self.label}: R² {whole['r2']:.2f} (95 % {whole['low']:.2f} to {whole['high']:.2f}) at {self.site}"
            f"{null}{lost}; n = {whole['n']} held-out examples, fitted on {self.trained}"
        )


@method
def number_probe(
    model: Model,
    tokens: Tokens,
    numbers: Float[Tensor, "batch *axes"],
    site: str | Site,
    *,
    at: Positions = -1,
    groups: Sequence[int] | Int[Tensor, " batch"] | None = None,
    names: Sequence[str] | None = None,
    name: str = "numbers",
    draws: int = 20,
    held_out: float = 0.5,
    seed: int = 0,
) -> NumberProbe:
    """How well some numbers can be read at a site, judged on texts that were held out.

    Args:
        model: The model.
        tokens: The texts.
        numbers: Of each text, [batch, target]; or of each column of `tokens`, [batch, pos, target].
        site: Where they are read.
        at: At which positions; None for every token but the BOS.
        groups: Texts of one number lie on one side of the split; None where each is alone.
        names: What each number is.
        name: What they are together.
        draws: How often numbers are exchanged among groups.
        held_out: The share of the groups that is held out.
        seed: Of the split and the null.

    Raises:
        BadInput: Not as many rows as texts, or numbers that do not vary.
        NotFinite: A number or an activation is NaN or infinite.

    Units: R², a fraction: 1 reads all of the variance, 0 what their mean reads, below 0 worse than that.

    Source: Gurnee and Tegmark 2023, arXiv 2310.02207, for coordinates; Shai et al. 2024, arXiv 2405.15943, for beliefs.

    Caveats:
        As `probe`; and the positions of a text are not independent, so its tokens stay on one side of the split. The
        null exchanges texts, position by position: what the position alone tells is in it too, unless that is all.
    """
    require_finite("a number to be read", numbers)
    if numbers.ndim not in (2, 3) or numbers.shape[: numbers.ndim - 1] not in (tokens.ids.shape, tokens.ids.shape[:1]):
        found = f"numbers of shape {list(numbers.shape)}, tokens {list(tokens.ids.shape)}"
        raise BadInput(explain("Numbers are [batch, target] or [batch, pos, target]", found=found))

    def fit(x: Tensor, y: Tensor, parts: Tensor, penalty: float | None) -> tuple[Weights, float]:
        chosen = thrifty(x, y, parts, SHRINKS, least_squares, _squares) if penalty is None else penalty
        return least_squares(x, y, chosen), chosen

    with measure() as cost:
        data = gathered(model, tokens, numbers.double(), site, at, groups, held_out, seed)
        if not bool((data.y[data.test].std(0, correction=0) > 0).all()):
            raise BadInput(explain("A number that is the same in all held-out examples cannot be read"))
        (readers, biases), null = fitted(data, fit, draws, seed, explained)
    return NumberProbe(
        label=name,
        site=str(site),
        names=tuple(names or map(str, range(numbers.shape[-1]))),
        vectors=patterns(data.x[data.train], data.y[data.train]),
        readers=readers,
        biases=biases,
        trained=len(data.train),
        known=data.y[data.test],
        said=data.x[data.test] @ readers.T + biases,
        null=null,
        provenance=made_by(
            f"digsite.directions.probes.number_probe(model, tokens, numbers, {str(site)!r}, at={at}, seed={seed})",
            model,
            tokens.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def explained(said: Float[Tensor, "example target"], known: Float[Tensor, "example target"]) -> float:
    """R²: 1 - the squared error by the variance, both summed over all numbers."""
    return 1 - float((said - known).square().sum() / (known - known.mean(0)).square().sum())


def _squares(said: Tensor, known: Tensor) -> Tensor:
    return (said - known).square().sum()
