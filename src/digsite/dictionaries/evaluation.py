"""How good a dictionary is, on text it was not trained on, beside everything that it has to beat.

1. The corpus is halved: on one half the baselines are fitted, the means taken, and the latents found that fire on one
   token alone; on the other half everything is judged.
2. Reconstruction: L0, FVU (see `reconstruction`), cosine, how much is shrunk, how often each latent fires.
3. Downstream: the loss of the model and its KL with the dictionary spliced in, as a share of what zero ablation (and
   mean ablation) of the same places costs: (zero - spliced) / (zero - clean).
4. The same numbers for: the dictionary without its single-token latents, the dictionary on shuffled rows, the same
   dictionary before training, PCA, linear maps, raw neurons; and, if it can be retrained, for one like it on a model of
   random weights.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval, ratio_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.dictionaries.baselines import linear_maps, principal_components, raw_neurons, step_0
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.firing import Firing
from digsite.dictionaries.halves import halves
from digsite.dictionaries.moments import Moments
from digsite.dictionaries.splice import encoded, rows_in, site_of
from digsite.dictionaries.trial import Models, References, Trial, Tried, places_of, rows_beside, runs_of, try_all
from digsite.models import Model, Tokens, made_by, untrained

DICTIONARY, WITHOUT, SHUFFLED = "dictionary", "without single-token latents", "shuffled activations"
RANDOM, STEP_0, PCA, NEURONS = "random-weights model", "step 0", "PCA", "raw neurons"
DENSE = 0.1
"""A latent that fires in more than this fraction of the rows is dense."""


@dataclass(frozen=True, kw_only=True)
class DictionaryEvaluation(Result):
    """How good a dictionary is, beside what it has to beat.

    Attributes:
        dictionary: What was judged.
        model: The name of the model (or of several).
        corpus: The text.
        judged: The dictionary, and what stands beside it.
        columns: What is written.
        places: Where things were spliced in: all columns at once, and each alone.
        missing: Baselines that were left out, and what they need.
        warnings: What speaks against trusting the numbers.
        rows: Rows of each sequence that was judged.
        l0: Latents that fire in a row, mean over the rows of each sequence.
        residual: Sum of squared errors of each sequence.
        total: Sum of squared distances from the mean of each sequence.
        gamma: Relative reconstruction bias: below 1 what is written is too small.
        cosine: Mean cosine of each sequence.
        ratio: Mean of |x̂| / |x| of each sequence.
        clean: Loss of the model by itself, nats per token.
        zero: Loss with zero in the place.
        mean: Loss with the mean in the place.
        loss: Loss with the dictionary in the place; NaN where it was not spliced in.
        kl: KL from the model by itself, nats per token.
        dead: Fraction of latents that never fired.
        dense: Fraction of latents that fire in more than a tenth of the rows.
        single: Of the latents that fire at least ten times, the fraction with 90 % of their mass on one token.
        density: In which fraction of the rows each latent of the dictionary fires.
        entropy: Of its firing mass over tokens, nats; NaN where it fires less than ten times.
        share: The largest share of its firing mass that one token has.
    """

    SCHEMA: ClassVar[str] = "dictionaries.evaluation/1"

    dictionary: str
    model: str
    corpus: str
    judged: tuple[str, ...]
    columns: tuple[str, ...]
    places: tuple[str, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    rows: Int[Tensor, " example"]
    l0: Float[Tensor, "judged example"]
    residual: Float[Tensor, "judged column example"]
    total: Float[Tensor, "judged column example"]
    gamma: Float[Tensor, "judged column"]
    cosine: Float[Tensor, "judged column example"]
    ratio: Float[Tensor, "judged column example"]
    clean: Float[Tensor, "judged place example"]
    zero: Float[Tensor, "judged place example"]
    mean: Float[Tensor, "judged place example"]
    loss: Float[Tensor, "judged place example"]
    kl: Float[Tensor, "judged place example"]
    dead: Float[Tensor, " judged"]
    dense: Float[Tensor, " judged"]
    single: Float[Tensor, " judged"]
    density: Float[Tensor, " latent"]
    entropy: Float[Tensor, " latent"]
    share: Float[Tensor, " latent"]

    def fvu(self) -> Float[Tensor, " judged"]:
        """The fraction of variance unexplained, all columns together."""
        return self.residual.sum((1, 2)) / self.total.sum((1, 2))

    def recovered(self, reference: str = "zero") -> Float[Tensor, "judged place"]:
        """The share of the loss that is recovered: 1 as good as the model's own, 0 as bad as the reference.

        Args:
            reference: "zero" or "mean".
        """
        above, below = self._shares(reference)
        return above.mean(-1) / below.mean(-1)

    def _shares(self, reference: str) -> tuple[Tensor, Tensor]:
        worst = self.zero if reference == "zero" else self.mean
        return worst - self.loss, worst - self.clean

    def to_frame(self, *, resamples: int = 1000, seed: int = 0) -> pl.DataFrame:
        """One row for everything judged and every place, the columns of the place together; 95 % intervals."""
        weight = self.rows / self.rows.double().mean()
        l0 = ratio_interval(self.l0 * self.rows, self.rows.double(), resamples=resamples, seed=seed)
        back = ratio_interval(*self._shares("zero"), resamples=resamples, seed=seed)
        kl = bootstrap_interval(self.kl.movedim(-1, 0), resamples=resamples, seed=seed)
        rows = []
        for at, name in enumerate(self.judged):
            for place, where in enumerate(self.places):
                some = self._columns_of(where)
                above, below = self.residual[at, some].sum(0), self.total[at, some].sum(0)
                low, high = ratio_interval(above, below, resamples=resamples, seed=seed)
                rows.append(
                    {
                        "judged": name,
                        "place": where,
                        "l0": float((self.l0[at] * weight).mean()),
                        "l0_low": float(l0[0][at]),
                        "l0_high": float(l0[1][at]),
                        "fvu": float(above.sum() / below.sum()),
                        "fvu_low": float(low),
                        "fvu_high": float(high),
                        "cosine": float((self.cosine[at, some].mean(0) * weight).mean()),
                        "ratio": float((self.ratio[at, some].mean(0) * weight).mean()),
                        "gamma": float(self.gamma[at, some].mean()),
                        "loss": float(self.loss[at, place].mean()),
                        "clean": float(self.clean[at, place].mean()),
                        "recovered": float(self.recovered()[at, place]),
                        "recovered_low": float(back[0][at, place]),
                        "recovered_high": float(back[1][at, place]),
                        "over_mean": float(self.recovered("mean")[at, place]),
                        "kl": float(self.kl[at, place].mean()),
                        "kl_low": float(kl[0][at, place]),
                        "kl_high": float(kl[1][at, place]),
                        "dead": float(self.dead[at]),
                        "dense": float(self.dense[at]),
                        "single_token": float(self.single[at]),
                        "n": len(self.rows),
                    }
                )
        return pl.DataFrame(rows)

    def _columns_of(self, place: str) -> list[int]:
        if place in self.columns:
            return [self.columns.index(place)]
        model = place.rpartition(":")[0] if place != "all" else ""
        return [at for at, name in enumerate(self.columns) if name.rpartition(":")[0] == model]

    @property
    def beaten_by(self) -> tuple[str, ...]:
        """The baselines that explain at least as much variance as the dictionary."""
        fvu = self.fvu()
        controls = [at for at, name in enumerate(self.judged) if name not in (DICTIONARY, WITHOUT)]
        return tuple(self.judged[at] for at in controls if fvu[at] <= fvu[0])

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        row = self.to_frame().row(0, named=True)
        others = [
            f"{name} {float(fvu):.3g}"
            for name, fvu in zip(self.judged, self.fvu(), strict=True)
            if name not in (DICTIONARY, WITHOUT)
        ]
        beside = f"; beside it {', '.join(others)}" if others else ""
        failed = f", so it fails against {' and '.join(self.beaten_by)}" if self.beaten_by else ""
        missing = f"; missing: {', '.join(self.missing)}" if self.missing else ""
        warned = f"; {'; '.join(self.warnings)}" if self.warnings else ""
        tokens = ""
        if WITHOUT in self.judged and not math.isnan(row["single_token"]):
            without = float(self.fvu()[self.judged.index(WITHOUT)])
            tokens = f"; {row['single_token']:.0%} of its latents fire on one token, without those {without:.1%}"
        return (
            f"{self.dictionary}: {row['fvu']:.1%} of the variance is unexplained (95 % {row['fvu_low']:.1%} to "
            f"{row['fvu_high']:.1%}) by {row['l0']:.1f} latents a token{beside}{failed}; spliced in it recovers "
            f"{row['recovered']:.1%} of the loss that zero ablation costs and {row['over_mean']:.1%} of what mean "
            f"ablation costs ({row['clean']:.2f} to {row['loss']:.2f} nats, KL {row['kl']:.3g}); {row['dead']:.0%} "
            f"never fire{tokens}; n = {row['n']} sequences{missing}{warned}"
        )


@method
def evaluate(
    model: Model | Mapping[str, Model],
    dictionary: Dictionary,
    corpus: Any,
    *,
    baselines: bool = True,
    retrain: Callable[[Any], Dictionary] | None = None,
    rows: int = 64,
    batch: int = 8,
    seed: int = 0,
) -> DictionaryEvaluation:
    """How good a dictionary is on held-out text, beside everything that it has to beat.

    Args:
        model: The model; for a dictionary that reads several, each by the name that its columns begin with.
        dictionary: Of any family.
        corpus: Text that it was not trained on: anything with `batches(batch_size)`.
        baselines: Whether the baselines are judged too.
        retrain: Trains a dictionary like this one on the model (or models) it is given; for the model of random
            weights.
        rows: Sequences to judge; as many more are used to fit the baselines.
        batch: Sequences in one pass.
        seed: Of all that is random.

    Returns:
        The numbers, sequence by sequence.

    Raises:
        BadInput: Fewer than four sequences, a column of no model, or a column that never varies.
        ShapeMismatch: A site has another width than the dictionary's.
        NotFinite: An activation is a NaN or infinite.

    Units: nats per token; fractions.

    Source: Gao et al. 2024, arXiv 2406.04093, and Rajamanoharan et al. 2024, arXiv 2404.16014, for the metrics; Heap et
    al. 2025, arXiv 2501.17727, for the model of random weights. Loss recovered leaves the BOS as it is, for the
    dictionary never saw it.

    Caveats:
        Reconstruction says nothing about whether latents mean anything: see `sparse_probing`; nor about whether a
        transcoder computes what the model computes: see `jacobian_faithfulness`. In a short text rare latents count
        as dead.
    """
    models: Models = {"": model} if isinstance(model, Model) else model
    fit, held = halves(corpus, rows, batch)
    _check(models, dictionary)
    training = dictionary.training
    dictionary.eval()
    try:
        with measure() as cost:
            moments, firing, active = _observe(models, dictionary, fit)
            several, missing = [Tried(DICTIONARY, dictionary)], []
            if baselines:
                several += _beside(models, dictionary, fit, moments, firing, active, seed)
                if retrain is None:
                    missing.append(f"{RANDOM} (give retrain=)")
            found = [_judged(models, several, held, moments, seed)]
            if baselines and retrain is not None:
                empty = {name: untrained(one, seed=seed) for name, one in models.items()}
                twin = retrain(empty[""] if isinstance(model, Model) else empty).eval()
                _same_columns(dictionary, twin)
                found.append(_judged(empty, [Tried(RANDOM, twin)], held, _observe(empty, twin, fit)[0], seed))
    finally:
        dictionary.train(training)
    names = tuple(one.name for one in several) + ((RANDOM,) if len(found) > 1 else ())
    return DictionaryEvaluation(
        dictionary=_called(dictionary),
        model=" and ".join(one.name for one in models.values()),
        corpus=getattr(corpus, "name", "tokens"),
        judged=names,
        columns=dictionary.writes,
        places=tuple(place.name for place in places_of(dictionary)),
        missing=tuple(missing),
        warnings=tuple(_warnings(models, dictionary, corpus)),
        **_numbers(found),
        density=found[0][0][0].firing.density,
        entropy=found[0][0][0].firing.entropy,
        share=found[0][0][0].firing.share,
        provenance=made_by(
            f"digsite.dictionaries.evaluate(model, dictionary, corpus, rows={rows}, baselines={baselines})",
            next(iter(models.values())),
            corpus.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


Judged = tuple[list[Trial], References]


def _numbers(found: list[Judged]) -> dict[str, Tensor]:
    """The fields of the result, everything judged in a row."""
    trials = [trial for some, _ in found for trial in some]
    ends = [reference for some, reference in found for _ in some]

    def stack(values: list[Tensor]) -> Tensor:
        return torch.stack(values).double()

    near = [trial.reconstruction for trial in trials]
    return {
        "rows": ends[0].rows,
        "l0": stack([trial.l0 for trial in trials]),
        **{name: stack([getattr(x, name) for x in near]) for name in ("residual", "total", "cosine", "ratio")},
        "gamma": stack([x.bias() for x in near]),
        **{name: stack([getattr(reference, name) for reference in ends]) for name in ("clean", "zero", "mean")},
        **{name: stack([getattr(trial, name) for trial in trials]) for name in ("loss", "kl")},
        "dead": stack([(trial.firing.fired == 0).double().mean() for trial in trials]),
        "dense": stack([(trial.firing.density > DENSE).double().mean() for trial in trials]),
        "single": stack([trial.firing.single.sum() / trial.firing.share.isfinite().sum() for trial in trials]),
    }


def _judged(models: Models, several: list[Tried], held: list[Tokens], moments: Moments, seed: int) -> Judged:
    means = {name: moments.mean(name) for name in several[0].dictionary.writes}
    return try_all(models, several, track(held, "judging a dictionary"), means, seed=seed)


@torch.no_grad()
def _observe(models: Models, dictionary: Dictionary, fit: list[Tokens]) -> tuple[Moments, Firing, list[float]]:
    """1. What the baselines are fitted on, on which tokens latents fire, how many of each block do."""
    columns = tuple(dict.fromkeys((*dictionary.reads, *dictionary.writes)))
    moments = Moments({name: dictionary.config.columns[name].width for name in columns}, columns)
    firing, fires = Firing(dictionary.width), torch.zeros(len(dictionary.blocks), dtype=torch.float64)
    for tokens in track(fit, "fitting baselines"):
        rows = rows_beside(runs_of(models, columns, tokens, logits=False), columns, rows_in(tokens))
        latents = encoded(dictionary, rows)
        moments.add(rows)
        assert rows.ids is not None
        firing.add(latents, rows.ids)
        fires += torch.stack([block.count().sum().cpu() for block in latents])
    return moments, firing, (fires / moments.rows).tolist()


def _beside(
    models: Models,
    dictionary: Dictionary,
    fit: list[Tokens],
    moments: Moments,
    firing: Firing,
    active: list[float],
    seed: int,
) -> list[Tried]:
    """4. What stands beside the dictionary, of what there is for its family."""
    kept = (~firing.single).split([block.config.latents for block in dictionary.blocks])
    found = [Tried(WITHOUT, dictionary, kept), Tried(SHUFFLED, dictionary, shuffled=True)]
    found.append(Tried(STEP_0, step_0(dictionary, moments, seed)))
    components = principal_components(dictionary, moments, active)
    neurons = raw_neurons(lambda column: models[column.rpartition(":")[0]], dictionary, moments, active)
    found += [Tried(name, one) for name, one in linear_maps(dictionary, moments, active).items()]
    found += [Tried(PCA, components)] if components is not None else []
    exact = neurons is not None and _exact(models, neurons, fit[0])
    return found + ([Tried(NEURONS, neurons)] if neurons is not None and exact else [])


@torch.no_grad()
def _exact(models: Models, neurons: Dictionary, tokens: Tokens) -> bool:
    """Whether all neurons together are what is written: not where a norm comes after them."""
    columns = (*neurons.reads, *neurons.writes)
    rows = rows_beside(runs_of(models, columns, tokens, logits=False), columns, rows_in(tokens))
    for block in neurons.blocks:
        if set(block.config.reads) == set(block.config.writes):
            continue
        (write,) = block.config.writes
        whole = rows[block.config.reads[0]].float() @ block.W_dec(write) + neurons.bias(write)
        if float((whole - rows[write]).norm()) > 1e-2 * float(rows[write].norm()):
            return False
    return True


def _check(models: Models, dictionary: Dictionary) -> None:
    for column in (*dictionary.reads, *dictionary.writes):
        name = column.rpartition(":")[0]
        if name not in models:
            do = 'evaluate({"name": model, ...}, dictionary, corpus)' if name else "give the one model itself"
            found = f"the column {column}"
            raise BadInput(
                explain("The dictionary reads a model that is not given", found=found, possible=models, do=do)
            )
        models[name].anatomy.expand(site_of(column))


def _same_columns(dictionary: Dictionary, twin: Dictionary) -> None:
    if twin.writes != dictionary.writes:
        raise BadInput(
            explain(
                "A retrained dictionary writes what the judged one writes",
                found=", ".join(twin.writes),
                possible=", ".join(dictionary.writes),
            )
        )


def _warnings(models: Models, dictionary: Dictionary, corpus: Any) -> list[str]:
    """What the record of a dictionary's training says against these models and this text."""
    origin, found = dictionary.config.origin, []
    for name, model in models.items():
        trained = origin.get(f"{name}:weights" if name else "weights")
        if trained is not None and trained != model.fingerprint:
            found.append(f"it was trained on other weights ({trained}) than those of {model.name}")
    if origin.get("tokens") == corpus.fingerprint:
        found.append("it was trained on this very text")
    return found


def _called(dictionary: Dictionary) -> str:
    return repr(dictionary).removeprefix("Dictionary ")
