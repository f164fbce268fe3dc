"""What two models have in common, and what one has alone, read from a crosscoder over both.

1. Relative decoder norm of each latent: r = |d_B| / (|d_A| + |d_B|). Near 0 it writes to A alone, near 1 to B alone.
2. A latent that looks exclusive may not be: an L1 penalty shrinks a decoder to zero although the other model has the
   direction too (shrinkage), or gives each model a latent of its own for what they share (decoupling).
3. So each latent's direction in the model where it is longer is scaled to fit, wherever it fires,
   error: what the dictionary leaves over in each model when this latent is taken out;
   reconstruction: what the dictionary writes to each model.
   beta is the least-squares factor, nu = beta in the other model / beta in its own. A latent that is truly new has both
   near 0; a shrunk one has nu of the error near 1; a decoupled one has nu of the reconstruction near 1.
4. Control: the same numbers of the latents that both models share; they are near 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import ratio_interval, require_finite
from digsite._core.progress import track
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.dictionaries.dictionary import Dictionary
from digsite.store import Latents, Rows, Source

EXCLUSIVE = (0.05, 0.95)
"""Relative norms outside these look exclusive."""
NEW_ERROR, NEW_RECONSTRUCTION = 0.2, 0.5
"""A latent is truly new where both nu are below these."""


@dataclass(frozen=True, kw_only=True)
class ModelDiff(Result):
    """Latents of a crosscoder over two models: shared, exclusive, and exclusive in appearance only.

    Attributes:
        models: The names of the two, A and B.
        columns: What was read of each.
        norm: Relative decoder norm r: 0 writes to A alone, 1 to B alone; NaN where it writes nothing.
        cosine: Of what a latent writes to A and to B.
        density: In which fraction of the rows it fires.
        error_other: Σ f <d, target> of each part of the rows, on the errors of the model where the latent is shorter.
        error_own: The same in the model where it is longer.
        written_other: The same on what the dictionary writes, in the model where it is shorter.
        written_own: In the model where it is longer.
        rows: How many rows were read.
    """

    SCHEMA: ClassVar[str] = "dictionaries.model_diff/1"

    models: tuple[str, str]
    columns: tuple[str, str]
    norm: Float[Tensor, " latent"]
    cosine: Float[Tensor, " latent"]
    density: Float[Tensor, " latent"]
    error_other: Float[Tensor, "latent part"]
    error_own: Float[Tensor, "latent part"]
    written_other: Float[Tensor, "latent part"]
    written_own: Float[Tensor, "latent part"]
    rows: int

    @property
    def nu_error(self) -> Float[Tensor, " latent"]:
        """How much of a latent's direction the other model's error holds: near 1 for a shrunk latent."""
        return self.error_other.sum(1) / self.error_own.sum(1)

    @property
    def nu_reconstruction(self) -> Float[Tensor, " latent"]:
        """How much of it other latents write to the other model: near 1 for a decoupled latent."""
        return self.written_other.sum(1) / self.written_own.sum(1)

    @property
    def shared(self) -> Bool[Tensor, " latent"]:
        """Latents that write to both models."""
        return (self.norm >= EXCLUSIVE[0]) & (self.norm <= EXCLUSIVE[1])

    def exclusive(self, model: str) -> Bool[Tensor, " latent"]:
        """Latents that, by their norm, write to one model alone; many of them are not exclusive.

        Args:
            model: The name of one of the two.
        """
        return self.norm < EXCLUSIVE[0] if self._first(model) else self.norm > EXCLUSIVE[1]

    def new(self, model: str) -> Bool[Tensor, " latent"]:
        """Exclusive latents whose direction the other model does not have either.

        Args:
            model: The name of one of the two.
        """
        fits = (self.nu_error < NEW_ERROR) & (self.nu_reconstruction < NEW_RECONSTRUCTION)
        return self.exclusive(model) & fits

    def _first(self, model: str) -> bool:
        if model not in self.models:
            raise BadInput(explain(f"{model} is none of the two models", possible=self.models, near=model))
        return model == self.models[0]

    def to_frame(self, *, resamples: int = 1000, seed: int = 0) -> pl.DataFrame:
        """One row a latent: relative norm, cosine, density, both nu with 95 % intervals, and what it is."""
        error = ratio_interval(self.error_other, self.error_own, resamples=resamples, seed=seed)
        written = ratio_interval(self.written_other, self.written_own, resamples=resamples, seed=seed)
        kinds = []
        new = {name: self.new(name).tolist() for name in self.models}
        exclusive = {name: self.exclusive(name).tolist() for name in self.models}
        for latent, shared in enumerate(self.shared.tolist()):
            name = next((name for name in self.models if exclusive[name][latent]), None)
            only = "" if name is None else f"only in {name}" if new[name][latent] else f"only in {name} by norm"
            kinds.append("shared" if shared else only or "silent")
        return pl.DataFrame(
            {
                "latent": list(range(len(self.norm))),
                "kind": kinds,
                "norm": self.norm.tolist(),
                "cosine": self.cosine.tolist(),
                "density": self.density.tolist(),
                "nu_error": self.nu_error.tolist(),
                "nu_error_low": error[0].tolist(),
                "nu_error_high": error[1].tolist(),
                "nu_reconstruction": self.nu_reconstruction.tolist(),
                "nu_reconstruction_low": written[0].tolist(),
                "nu_reconstruction_high": written[1].tolist(),
            }
        ).with_columns(pl.selectors.float().fill_nan(None))

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        live = self.density > 0
        said = []
        for name in self.models:
            found, new = int((self.exclusive(name) & live).sum()), int(self.new(name).sum())
            said.append(f"{found} look exclusive to {name}, of which {new} are new by latent scaling")
        both = self.shared & live
        control = ""
        if both.any():
            nu = self.nu_error[both]
            control = f"; shared ones have a median nu of {float(nu.nanmedian()):.2f}"
        else:
            control = "; there is no shared latent to compare with"
        dead = int((~live).sum())
        return (
            f"{int(both.sum())} of {len(self.norm)} latents are shared by {self.models[0]} and {self.models[1]}; "
            f"{'; '.join(said)}{control}; {dead} never fired in {self.rows:,} rows"
        )


@method
def model_diff(
    dictionary: Dictionary, source: Source, *, rows: int = 32_768, parts: int = 32, batch: int = 2048
) -> ModelDiff:
    """What two models share and what one has alone, by a crosscoder over both; latent scaling catches false claims.

    Args:
        dictionary: A crosscoder over one site of two models; its columns are "name:site".
        source: Rows of both models side by side (`store.joined`), best on text it was not trained on.
        rows: How many are read.
        parts: The rows are split into so many parts, which the intervals draw again.
        batch: Rows at a time.

    Raises:
        BadInput: A dictionary that is no crosscoder over two models, or a source with too few rows.
        NotFinite: An activation is a NaN or infinite.

    Units: nu is a ratio: 0 the other model has nothing of it, 1 as much.

    Source: Lindsey et al. 2024 (transformer-circuits.pub/2024/crosscoders) for relative norms; Minder et al. 2025,
    arXiv 2504.02922, for latent scaling. We compute it in the normalised units of the dictionary.

    Caveats:
        Latents that seldom fire have wide intervals. A crosscoder trained with the sum of norms makes exclusive latents
        by its loss alone.
    """
    one, other = _two(dictionary)
    with measure() as cost, torch.no_grad():
        block = dictionary.blocks[0]
        decoders = torch.stack([block.W_dec(name).detach().cpu().double() for name in (one, other)])
        lengths = decoders.norm(dim=2)
        own = (lengths[1] > lengths[0]).long()
        directions = decoders[own, torch.arange(dictionary.width)]
        sums = torch.zeros(4, dictionary.width, parts, dtype=torch.float64)
        fired, seen = torch.zeros(dictionary.width, dtype=torch.long), 0
        total = min(rows, source.rows)
        if total < 2 * parts:
            raise BadInput(explain(f"{parts} parts need {2 * parts} rows", found=f"{total}", do="give more text"))
        for some in track(_batches(source, total, batch), "comparing models", total=-(-total // batch)):
            latents, errors, made = _passed(dictionary, (one, other), some)
            fired += latents.fired().cpu()
            part = (torch.arange(seen, seen + some.count) * parts) // total
            sums += _scaled(latents, errors, made, decoders, directions, own, part, parts)
            seen += some.count
    return ModelDiff(
        models=(one.partition(":")[0], other.partition(":")[0]),
        columns=(one, other),
        norm=lengths[1] / lengths.sum(0),
        cosine=torch.cosine_similarity(decoders[0], decoders[1], dim=1),
        density=fired / seen,
        error_other=sums[0],
        error_own=sums[1],
        written_other=sums[2],
        written_own=sums[3],
        rows=seen,
        provenance=record(
            f"digsite.dictionaries.model_diff(dictionary, source, rows={rows})",
            model=" and ".join(value for key, value in source.identity.items() if key.endswith("model")) or None,
            tokens=source.identity.get("tokens"),
        ),
        cost=cost,
    )


def _two(dictionary: Dictionary) -> tuple[str, str]:
    names = dictionary.writes
    models = [name.partition(":")[0] for name in names if ":" in name]
    if len(dictionary.blocks) != 1 or len(names) != 2 or len(set(models)) != 2 or set(names) != set(dictionary.reads):
        found = f"{', '.join(dictionary.reads)} → {', '.join(names)}"
        do = 'crosscoder({"base:layers.3.resid_post": d, "tuned:layers.3.resid_post": d}, ...)'
        raise BadInput(explain("Two models are compared by a crosscoder over one site of both", found=found, do=do))
    return names[0], names[1]


def _batches(source: Source, total: int, batch: int) -> Iterator[Rows]:
    """The first rows of a source, a few at a time."""
    seen = 0
    for chunk in source.chunks():
        for start in range(0, chunk.count, batch):
            some = chunk.take(slice(start, min(start + batch, total - seen + start)))
            if some.count:
                yield some
            seen += some.count
            if seen >= total:
                return


def _passed(
    dictionary: Dictionary, columns: tuple[str, str], rows: Rows
) -> tuple[Latents, Float[Tensor, "2 row d"], Float[Tensor, "2 row d"]]:
    """The latents, what is left over in each model, and what is written to it, in normalised units."""
    for name in columns:
        require_finite(name, rows[name])
    like = dictionary.b_dec[0]
    seen = dictionary.run(rows.to(like.device, like.dtype))
    x, made = (torch.stack([side[name] for name in columns]).double().cpu() for side in (seen.targets, seen.outputs))
    biases = torch.stack([dictionary.bias(name) for name in columns])[:, None].double().cpu()
    return seen.latents[0], x - made, made - biases


def _scaled(
    latents: Latents,
    errors: Float[Tensor, "2 row d"],
    made: Float[Tensor, "2 row d"],
    decoders: Float[Tensor, "2 latent d"],
    directions: Float[Tensor, "latent d"],
    own: Int[Tensor, " latent"],
    part: Int[Tensor, " row"],
    parts: int,
) -> Float[Tensor, "4 latent part"]:
    """3. Σ f <d, target>: on errors (the latent's own share put back) and on what is written; other model, own model.

    Beta is this over Σ f² |d|², which is the same in both models, so that nu is a ratio of these sums.
    """
    values, which = (x.cpu() for x in latents.flat)
    on = values != 0
    values, which, row = values[on].double(), which[on], latents.rows.cpu()[on]
    d = directions[which]
    found = torch.zeros(4, len(directions) * parts, dtype=torch.float64)
    place = which * parts + part[row]
    for at, side in ((0, 1 - own), (1, own)):
        share = (d * decoders[side[which], which]).sum(1) * values
        found[at].index_add_(0, place, values * ((d * errors[side[which], row]).sum(1) + share))
        found[at + 2].index_add_(0, place, values * (d * made[side[which], row]).sum(1))
    return found.view(4, len(directions), parts)
