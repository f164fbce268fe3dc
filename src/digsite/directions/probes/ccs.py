"""CCS: a direction along which a statement and its negation are read as opposites, found without labels.

1. The activations of the statements and those of their negations each lose their own mean, so that the word that makes
   the negation is not what is found. One scale brings both to a common size.
2. p = sigmoid(w·x + b). The loss of a pair is (p⁺ - (1 - p⁻))² + min(p⁺, p⁻)²: consistent, and not undecided. Weights
   decay a little.
3. From several random starts the one of the smallest loss is kept; the labels are not looked at.
4. A pair's p is the mean of p⁺ and 1 - p⁻. Whether a high p means true or false, no pair can say: the sign is
   arbitrary, unless labels of the training pairs give it one, and then the result says that it was supervised.

Source: Burns et al. 2022, "Discovering Latent Knowledge", arXiv 2212.03827, section 2.
Caveats: any feature in which the two of all pairs differ consistently has a small loss (Farquhar et al. 2023, arXiv
2312.10029). A low loss does not say that it is truth that was found.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite._core.ranking import auroc, auroc_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction, concrete
from digsite.directions.labelled import read_at, split, yes_or_no
from digsite.directions.probes.fits import Fitted
from digsite.directions.probes.probe import check_sides
from digsite.models import Model, Tokens, made_by
from digsite.sites import Site

STARTS, STEPS = 10, 100
DECAY = 0.01
"""Of the weights, as in the loss."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Consistent:
    """What `ccs` found.

    Attributes:
        fitted: The probe, of activations that lost the mean of their side (`middles`).
        middles: The mean of the statements, and that of the negations.
        losses: Of every start, the smallest first.
    """

    fitted: Fitted
    middles: Float[Tensor, "2 width"]
    losses: Float[Tensor, " instance"]

    def probability(self, yes: Float[Tensor, "pair width"], no: Float[Tensor, "pair width"]) -> Float[Tensor, " pair"]:
        """4. How surely the probe reads each pair one way or the other."""
        sides = (x.double() - middle for x, middle in zip((yes, no), self.middles, strict=True))
        p, q = (torch.sigmoid(self.fitted.scores(x)) for x in sides)
        return (p + 1 - q) / 2


@dataclass(frozen=True, kw_only=True)
class ContrastProbe(Result):
    """A direction found from pairs without labels, judged by the labels of pairs that were held out.

    Attributes:
        label: What the label says.
        site: Where.
        sign: "supervised", if labels of the training pairs turned the direction round; "arbitrary" if not.
        vector: The direction.
        bias: Added to a reading of an activation as it is, statement or negation.
        losses: Of every start, the smallest first.
        labels: Of the held-out pairs.
        probabilities: That a held-out pair is true, by the probe.
        random: AUROC of random directions in the place of the probe, in the better of both signs.
    """

    SCHEMA: ClassVar[str] = "directions.contrast_probe/1"

    label: str
    site: str
    sign: str
    vector: Float[Tensor, " width"]
    bias: float
    losses: Float[Tensor, " instance"]
    labels: Bool[Tensor, " pair"]
    probabilities: Float[Tensor, " pair"]
    random: Float[Tensor, " draw"]

    @property
    def direction(self) -> Direction:
        """The probe as a direction."""
        how = f"CCS, sign {self.sign}"
        site = Site.parse(self.site)
        return Direction(
            site=site, vector=self.vector, bias=self.bias, name=self.label, how=how, provenance=self.provenance
        )

    @property
    def auroc(self) -> float:
        """On held-out pairs, with the sign that it has."""
        return float(auroc(self.probabilities.numpy(), self.labels.numpy()))

    def to_frame(self) -> pl.DataFrame:
        """One row for each sign, and one for random directions in their better sign."""
        low, high = auroc_interval(self.probabilities.numpy(), self.labels.numpy())
        random = [float(self.random.quantile(q)) for q in (0.025, 0.975)]
        rows = [
            (f"CCS, sign {self.sign}", self.auroc, low, high),
            ("CCS, the other sign", 1 - self.auroc, 1 - high, 1 - low),
            ("random directions, better sign", float(self.random.mean()), *random),
        ]
        frame = pl.DataFrame(rows, schema=["what", "auroc", "low", "high"], orient="row")
        return frame.with_columns(n=pl.lit(len(self.labels)))

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        own, other, random = self.to_frame().to_dicts()
        turned = f" ({other['auroc']:.2f} with the other, and no pair says which is right)"
        better = own if self.sign == "supervised" or own["auroc"] >= other["auroc"] else other
        lost = ", which random directions reach too" if random["high"] >= better["low"] else ""
        return (
            f"{self.label}: CCS at {self.site} reads held-out pairs with an AUROC of {own['auroc']:.2f} (95 % "
            f"{own['low']:.2f} to {own['high']:.2f}), sign {self.sign}{'' if self.sign == 'supervised' else turned}"
            f"{lost}; random directions {random['auroc']:.2f} in their better sign (95 % up to {random['high']:.2f}); "
            f"loss {float(self.losses[0]):.3f} (worst start {float(self.losses[-1]):.3f}); n = {own['n']} pairs"
        )


def ccs(
    yes: Float[Tensor, "pair width"], no: Float[Tensor, "pair width"], *, starts: int = STARTS, seed: int = 0
) -> Consistent:
    """The direction along which the two of a pair are read as opposites; no label is looked at.

    Args:
        yes: Activations of statements, or of anything else.
        no: Activations of their negations.
        starts: Random starts, of which the one with the smallest loss is kept.
        seed: Of the starts.

    Raises:
        BadInput: Not as many negations as statements, fewer than two pairs, or nothing varies.
        NotFinite: An activation is NaN or infinite.
    """
    if yes.shape != no.shape or len(yes) < 2:
        found = f"{list(yes.shape)} and {list(no.shape)}"
        raise BadInput(explain("CCS needs two pairs or more, and a negation for each statement", found=found))
    both = torch.stack([require_finite("an activation", x).double() for x in (yes, no)])
    # 1.
    middles = both.mean(1)
    centred = both - middles[:, None]
    size = centred.norm(dim=-1).mean() / centred.shape[-1] ** 0.5
    if not float(size) > 0:
        raise BadInput(explain("There is nothing to read: all pairs are the same"))
    x = centred / size
    # 2. and 3. All starts at once.
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(starts, x.shape[-1], generator=draw, dtype=torch.float64)
    w = torch.cat([w / w.norm(dim=1, keepdim=True), torch.zeros(starts, 1, dtype=torch.float64)], 1).requires_grad_()

    def losses() -> Tensor:
        p, q = torch.sigmoid(torch.einsum("spw,dw->sdp", x, w[:, :-1]) + w[:, -1:])
        return ((p + q - 1).square() + torch.minimum(p, q).square()).mean(1)

    optimiser = torch.optim.LBFGS([w], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = losses().sum() + DECAY / 2 * w.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(closure)
    with torch.no_grad():
        order = losses().argsort()
        best = w[order[0]].detach()
        fitted = Fitted(vector=best[:-1] / size, bias=float(best[-1]))
        return Consistent(fitted=fitted, middles=middles, losses=losses()[order])


@method
def contrast_probe(
    model: Model,
    yes: Tokens,
    no: Tokens,
    labels: Bool[Tensor, " pair"],
    site: str | Site,
    *,
    at: int = -1,
    supervise_sign: bool = True,
    name: str = "true",
    draws: int = 50,
    held_out: float = 0.5,
    seed: int = 0,
) -> ContrastProbe:
    """What direction statements and their negations agree on, and whether that is the label of held-out pairs.

    Args:
        model: The model.
        yes: Statements, such as questions with the answer yes.
        no: The same with the answer no.
        labels: Whether each statement is the true one of its pair; used to judge, and for the sign if that is asked.
        site: Where they are read.
        at: At which position.
        supervise_sign: Turn the direction so that it is right on the training pairs; the result says so.
        name: What the label says.
        draws: How many random directions.
        held_out: The share of the pairs that is held out.
        seed: Of the split, the starts and the random directions.

    Raises:
        BadInput: As `ccs`; labels that are not as many as pairs, or too few of one kind.

    Units: AUROC, a fraction.

    Source: Burns et al. 2022, arXiv 2212.03827.

    Caveats:
        See the page of the module: what is found need not be truth, and without labels its sign is arbitrary.
    """
    site, known = concrete(site), yes_or_no(labels)
    if not len(known) == len(yes) == len(no):
        found = f"{len(yes)} statements, {len(no)} negations, {len(known)} labels"
        raise BadInput(explain("Every pair has a statement, a negation and a label", found=found))
    with measure() as cost:
        x = [read_at(model, side, [str(site)], *side.places(at)[:2])[str(site)] for side in (yes, no)]
        train, test = split(known, None, held_out, seed)
        check_sides(known, train, test)
        found = ccs(x[0][train], x[1][train], seed=seed)
        own = found.probability(x[0][train], x[1][train])
        turned = supervise_sign and bool(auroc(own.numpy(), known[train].numpy()) < 0.5)
        p = found.probability(x[0][test], x[1][test])
        draw = torch.Generator().manual_seed(seed)
        apart = (x[0][test] - x[1][test]).double()
        along = apart @ torch.randn(apart.shape[1], draws, generator=draw, dtype=torch.float64)
        random = np.array([float(auroc(one.numpy(), known[test].numpy())) for one in along.T])
    vector, middle = found.fitted.vector, found.middles.mean(0)
    bias = found.fitted.bias - float(vector @ middle)
    call = f"digsite.directions.probes.contrast_probe(model, yes, no, labels, {str(site)!r}, at={at}, seed={seed})"
    return ContrastProbe(
        label=name,
        site=str(site),
        sign="supervised" if supervise_sign else "arbitrary",
        vector=-vector if turned else vector,
        bias=-bias if turned else bias,
        losses=found.losses,
        labels=known[test],
        probabilities=1 - p if turned else p,
        random=torch.from_numpy(np.maximum(random, 1 - random)),
        provenance=made_by(call, model, yes.fingerprint + no.fingerprint, seed=seed),
        cost=cost,
    )
