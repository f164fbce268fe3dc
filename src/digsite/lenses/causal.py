"""Whether a lens reads what the model uses: do the directions that matter to the lens matter to the model?

1. At a point of the stream: its principal directions v on the first rows of a text, and its mean μ.
2. On other rows each direction is put to its mean, h - ((h - μ) · v) v, at all tokens that are no BOS.
3. What this changes of the lens there: KL(lens(h) ‖ lens(h ablated)), its basis energy; and what it changes of the
   model, which goes on from the ablated stream: KL(model ‖ model ablated).
4. Agreement is Spearman's rank correlation of the two over the directions. Control: that of the variance along a
   direction with the model's change. A direction along which more happens matters more to anything.

The paper searches, by gradient, the directions that matter most to the lens. Principal directions are ready at once and
favour no lens over another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.lenses.lens import Lens, point_names, same_model, stream_points
from digsite.lenses.moments import Moments
from digsite.lenses.passages import Passage, log_probs, passages
from digsite.models import Model, apply, made_by
from digsite.models.prediction import kl
from digsite.tasks import Corpus


@dataclass(frozen=True, kw_only=True)
class CausalAgreement(Result):
    """How alike directions matter to a lens and to the model.

    Attributes:
        lenses: Their names.
        sites: The points of the stream, without the last, where lens and model are one.
        energy: By how much each direction changes what each lens says.
        effect: By how much it changes what the model says.
        variance: How much the stream varies along it.
    """

    SCHEMA: ClassVar[str] = "lenses.causal_agreement/1"

    lenses: tuple[str, ...]
    sites: tuple[str, ...]
    energy: Float[Tensor, "lens depth probe"]
    effect: Float[Tensor, "depth probe"]
    variance: Float[Tensor, "depth probe"]

    def to_frame(self, *, resamples: int = 1000, seed: int = 0) -> pl.DataFrame:
        """One row a lens and point: Spearman's correlation with its 95 % interval, and the control's."""
        draws = np.random.default_rng(seed).integers(0, self.effect.shape[1], (resamples, self.effect.shape[1]))
        rows = []
        for i, lens in enumerate(self.lenses):
            for j, point in enumerate(point_names(self.sites)):
                energy, effect, variance = (x.numpy() for x in (self.energy[i, j], self.effect[j], self.variance[j]))
                low, high = np.nanquantile(spearman(energy[draws], effect[draws]), [0.025, 0.975])
                rows.append(
                    {"lens": lens, "point": point, "agreement": float(spearman(energy, effect)), "low": float(low)}
                    | {"high": float(high), "variance": float(spearman(variance, effect)), "n": len(effect)}
                )
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        frame = self.to_frame().group_by("lens", maintain_order=True).agg(pl.col("agreement", "variance").mean())
        rows = frame.sort("agreement", descending=True).to_dicts()
        said = ", ".join(f"{row['lens']} {row['agreement']:.2f}" for row in rows)
        control = rows[0]["variance"]
        lost = [row["lens"] for row in rows if row["agreement"] <= control]
        failed = f" and is not beaten by {', '.join(lost)}" if lost else ""
        return (
            f"What matters to the lens matters to the model with a rank correlation of (mean over points) {said}; "
            f"the variance along a direction alone has {control:.2f}{failed}; "
            f"{self.effect.shape[1]} principal directions"
        )


@method
def causal_agreement(
    model: Model,
    corpus: Corpus,
    lenses: Sequence[Lens] | Mapping[str, Lens],
    *,
    directions: int = 16,
    rows: int = 16,
    batch: int = 8,
) -> CausalAgreement:
    """Whether the directions that matter to a lens are those that matter to the model.

    Args:
        model: The model.
        corpus: Text that no lens was fitted on.
        lenses: Lenses that look no token ahead; by name, where two are of one kind.
        directions: Principal directions that are ablated at each point, those of the most variance first.
        rows: Rows of text to find the directions on; as many more to ablate them on.
        batch: Rows in a pass.

    Raises:
        BadInput: A lens of another model, one that looks ahead or does not read a point, more directions than there are
            coordinates, or too little text.

    Units: Spearman's correlation, from -1 to 1; energy and effect in nats.

    Source: Belrose et al. 2023 (arXiv:2303.08112), section 4 (basis energy, causal fidelity).

    Caveats:
        Sixteen directions give a wide interval. Directions of little variance are not tried.
    """
    named = dict(lenses) if isinstance(lenses, Mapping) else {lens.name: lens for lens in lenses}
    sites = tuple(s for s in stream_points(model)[:-1] if all(s in lens.sites for lens in named.values()))
    if not 2 < directions <= model.d_model:
        raise BadInput(explain(f"{directions} directions cannot be tried", possible=f"3 to {model.d_model}"))
    if ahead := [name for name, lens in named.items() if lens.ahead]:
        raise BadInput(explain(f"The {ahead[0]} lens looks ahead, and the model is asked about the next token"))
    for lens in named.values():
        same_model(lens, model)
    learn, rest = corpus.split(rows)
    with measure() as cost, torch.no_grad():
        basis = _basis(model, learn, sites, directions, batch)  # 1.
        energy = torch.zeros(len(named), len(sites), directions)
        effect = torch.zeros(len(sites), directions)
        seen = 0
        for passage in track(passages(model, rest, sites, batch=batch, rows=rows), "ablating directions"):
            own, n = passage.said(), int(passage.where.sum())
            for j, site in enumerate(sites):
                mean, vectors, _ = basis[site]
                for k, v in enumerate(vectors):  # 2. and 3.
                    effect[j, k] += float(kl(own, _ablated(model, passage, site, mean, v)).sum())
                    h = passage.stream(site)
                    moved = _without(h, mean, v)
                    for i, lens in enumerate(named.values()):
                        said, then = (log_probs(lens.logits(x, site)) for x in (h, moved))
                        energy[i, j, k] += float(kl(said, then).sum())
            seen += n
    return CausalAgreement(
        lenses=tuple(named),
        sites=sites,
        energy=energy / seen,
        effect=effect / seen,
        variance=torch.stack([basis[site][2] for site in sites]),
        provenance=made_by(
            f"digsite.lenses.causal_agreement(model, corpus, [{', '.join(named)}], directions={directions})",
            model,
            corpus.fingerprint,
        ),
        cost=cost,
    )


def spearman(
    one: Float[np.ndarray, "*cells probe"], other: Float[np.ndarray, "*cells probe"]
) -> Float[np.ndarray, "*cells"]:
    """4. The correlation of ranks along the last axis; NaN where one of the two does not vary."""
    a, b = (rankdata(x, axis=-1) for x in (one, other))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore"):
        return np.asarray((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


def _basis(
    model: Model, text: Corpus, sites: tuple[str, ...], count: int, batch: int
) -> dict[str, tuple[Tensor, Float[Tensor, "probe d_model"], Float[Tensor, " probe"]]]:
    """1. Mean, principal directions and the variance along each."""
    found: dict[str, Moments] = {}
    for passage in passages(model, text, sites, batch=batch):
        for site in sites:
            h = passage.stream(site)
            if site not in found:
                found[site] = Moments(model.d_model, h.device)
            found[site].add(h, h)
    return {site: one.principal(count) for site, one in found.items()}


def _without(h: Tensor, mean: Tensor, v: Tensor) -> Tensor:
    """2. The stream with one direction at its mean."""
    return h - ((h - mean) @ v).unsqueeze(-1) * v


def _ablated(model: Model, passage: Passage, site: str, mean: Tensor, v: Tensor) -> Float[Tensor, "row vocab"]:
    """3. What the model says with the direction at its mean, at every token that is no BOS."""
    where = passage.run.tokens.without_bos.unsqueeze(-1)
    edit = apply(site, lambda x: torch.where(where.to(x.device), _without(x, mean, v), x))
    run = model.run(passage.run.tokens, edits=[edit])
    return Passage(run, passage.where, passage.first).said()
