"""A probe of whole texts that learns where to look: attention over positions with one query.

1. Every position has a key q·x and a value v·x. A text's score is Σ softmax(q·x) v·x + b, over its tokens but the BOS.
2. q, v and b minimise the balanced log loss with a penalty on |q|² + |v|², by full-batch L-BFGS; activations are
   standardised, and the two vectors mapped back.
3. Judged on held-out texts, beside shuffled labels and beside the mean over positions (the query at zero), which is the
   same probe without attention.

Source: Kantamneni et al. 2025, arXiv 2502.16681, section 5 (attention pooling as a baseline).
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite._core.progress import track
from digsite._core.ranking import auroc, auroc_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction, concrete
from digsite.directions.labelled import shuffled, split, yes_or_no
from digsite.directions.measuring import content
from digsite.directions.probes.probe import check_sides
from digsite.models import Model, Tokens, made_by
from digsite.sites import Site


class Pooled(NamedTuple):
    """An attention probe: where it looks, and what it reads there."""

    query: Float[Tensor, " width"]
    value: Float[Tensor, " width"]
    bias: float

    def weights(
        self, x: Float[Tensor, "batch pos width"], mask: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos"]:
        """How much of its reading a text takes from each position."""
        return (x.double() @ self.query).masked_fill(~mask, -torch.inf).softmax(1)

    def scores(self, x: Float[Tensor, "batch pos width"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, " batch"]:
        """The score of each text; above 0 it has the label."""
        return (self.weights(x, mask) * (x.double() @ self.value)).sum(1) + self.bias


@dataclass(frozen=True, kw_only=True)
class AttentionProbe(Result):
    """How well a label of texts can be read by a probe that learns where to look.

    Attributes:
        label: What the label says.
        site: Where.
        query: Where it looks.
        value: What it reads there.
        bias: Added to the reading.
        trained: How many texts were fitted on.
        labels: Of the held-out texts.
        scores: Of the held-out texts.
        mean_scores: Of the same probe without attention, which reads the mean over positions.
        weights: How much each held-out text takes from each of its tokens; 0 at padding and the BOS.
        null: AUROC with shuffled labels.
    """

    SCHEMA: ClassVar[str] = "directions.attention_probe/1"

    label: str
    site: str
    query: Float[Tensor, " width"]
    value: Float[Tensor, " width"]
    bias: float
    trained: int
    labels: Bool[Tensor, " example"]
    scores: Float[Tensor, " example"]
    mean_scores: Float[Tensor, " example"]
    weights: Float[Tensor, "example pos"]
    null: Float[Tensor, " draw"]

    @property
    def direction(self) -> Direction:
        """What it reads, wherever it looks, as a direction."""
        how = "attention probe"
        site = Site.parse(self.site)
        return Direction(
            site=site, vector=self.value, bias=self.bias, name=self.label, how=how, provenance=self.provenance
        )

    def to_frame(self) -> pl.DataFrame:
        """The probe, the mean over positions, and shuffled labels: AUROC with 95 % intervals."""
        labels, rows = self.labels.numpy(), []
        for name, scores in (("attention", self.scores), ("mean over positions", self.mean_scores)):
            low, high = auroc_interval(scores.numpy(), labels)
            rows.append({"what": name, "auroc": float(auroc(scores.numpy(), labels)), "low": low, "high": high})
        if len(self.null):
            ends = [float(self.null.quantile(q)) for q in (0.025, 0.975)]
            rows.append({"what": "shuffled labels", "auroc": float(self.null.mean()), "low": ends[0], "high": ends[1]})
        return pl.DataFrame(rows).with_columns(n=pl.lit(len(labels)))

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        own, mean, *null = self.to_frame().to_dicts()
        lost = "; to attend is of no use" if mean["auroc"] >= own["auroc"] else ""
        said = f", shuffled labels up to {null[0]['high']:.2f} (95 %)" if null else ""
        failed = "; it does no better than shuffled labels" if null and null[0]["high"] >= own["low"] else ""
        return (
            f"{self.label}: whole texts read at {self.site} with an AUROC of {own['auroc']:.2f} (95 % {own['low']:.2f} "
            f"to {own['high']:.2f}); the mean over positions {mean['auroc']:.2f}{said}{lost}{failed}; n = {own['n']} "
            f"held-out texts, fitted on {self.trained}"
        )


@method
def attention_probe(
    model: Model,
    tokens: Tokens,
    labels: Bool[Tensor, " batch"],
    site: str | Site,
    *,
    groups: Int[Tensor, " batch"] | None = None,
    name: str = "label",
    penalty: float = 0.1,
    draws: int = 10,
    held_out: float = 0.5,
    batch: int = 32,
    seed: int = 0,
) -> AttentionProbe:
    """How well a label of whole texts can be read, wherever in a text it shows.

    Args:
        model: The model.
        tokens: The texts, of any lengths.
        labels: Yes or no for each.
        site: Where they are read; all tokens but the BOS.
        groups: Texts of one number lie on one side of the split; None where each is alone.
        name: What the label says.
        penalty: Inverse strength C of the penalty, as in `solving.PENALTIES`.
        draws: How often labels are shuffled.
        held_out: The share of the groups that is held out.
        batch: Texts in one pass.
        seed: Of the split, the start and the null.

    Raises:
        BadInput: Not as many labels as texts, or too few of one label.
        NotFinite: An activation is NaN or infinite.

    Units: AUROC, a fraction.

    Caveats:
        Where it looks is not where the model looks. Long texts are held whole: [batch, pos, width] in memory.
    """
    site, known = concrete(site), yes_or_no(labels)
    if known.shape != (len(tokens),):
        found = f"labels of shape {list(known.shape)}, {len(tokens)} texts"
        raise BadInput(explain("Every text has a label", found=found))
    with measure() as cost:
        run = model.run(tokens, read=[site], logits=None, batch_size=batch, to="cpu")
        mask = content(tokens, model.tokenizer)
        x = run[site].double().masked_fill(~mask[..., None], 0.0)
        require_finite(f"an activation at {site}", x)
        train, test = split(known, groups, held_out, seed)
        check_sides(known, train, test)
        mixed = shuffled(known, groups, draws, np.random.default_rng([seed, 1]), train, test)
        own, *null = [
            pooled(x[train], mask[train], some[train], C=penalty, seed=seed)
            for some in track([known, *mixed], "fitting probes")
        ]
        plain = pooled(x[train], mask[train], known[train], C=penalty, attend=False, seed=seed)
        by_chance = [
            float(auroc(one.scores(x[test], mask[test]).numpy(), some[test].numpy()))
            for one, some in zip(null, mixed, strict=True)
        ]
    call = f"digsite.directions.probes.attention_probe(model, tokens, labels, {str(site)!r}, seed={seed})"
    return AttentionProbe(
        label=name,
        site=str(site),
        query=own.query,
        value=own.value,
        bias=own.bias,
        trained=len(train),
        labels=known[test],
        scores=own.scores(x[test], mask[test]),
        mean_scores=plain.scores(x[test], mask[test]),
        weights=own.weights(x[test], mask[test]),
        null=torch.tensor(by_chance, dtype=torch.float64),
        provenance=made_by(call, model, tokens.fingerprint, seed=seed),
        cost=cost,
    )


def pooled(
    x: Float[Tensor, "batch pos width"],
    mask: Bool[Tensor, "batch pos"],
    labels: Bool[Tensor, " batch"],
    *,
    C: float = 0.1,
    attend: bool = True,
    steps: int = 100,
    seed: int = 0,
) -> Pooled:
    """Fits an attention probe.

    Args:
        x: Activations.
        mask: Which positions count.
        labels: Of the texts.
        C: Inverse strength of the penalty.
        attend: False holds the query at zero: the mean over positions.
        steps: L-BFGS steps at most.
        seed: Of the start.
    """
    seen = x[mask].double()
    mean, sd = seen.mean(0), seen.std(0, correction=0)
    sd = torch.where(sd > 1e-10 * mean.abs().clamp_min(1e-30), sd, torch.inf)
    z = ((x.double() - mean) / sd).masked_fill(~mask[..., None], 0.0)
    start = torch.randn(2, x.shape[2], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    w = (0.01 * start * torch.tensor([[float(attend)], [1.0]])).requires_grad_()
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    share = labels.double().mean()
    weight = torch.where(labels, 0.5 / share, 0.5 / (1 - share))
    optimiser = torch.optim.LBFGS([w, b], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        query = w[0] if attend else 0 * w[0]
        attention = (z @ query).masked_fill(~mask, -torch.inf).softmax(1)
        score = (attention * (z @ w[1])).sum(1) + b
        loss = C * (weight * softplus(torch.where(labels, -score, score))).sum() + w.square().sum() / 2
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    query, value = (w.detach() / sd).unbind()
    # The mean adds the same to every key, which the softmax does not see; to the values it adds a constant.
    return Pooled(query if attend else 0 * query, value, float(b.detach() - value @ mean))
