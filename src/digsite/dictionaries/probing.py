"""What can be read from a few latents, beside what can be read from the activations themselves.

1. Examples with a label, yes or no; those of a pair lie on one side of the split.
2. On the training side the k latents with the largest difference of class means are chosen, and a logistic probe is
   fitted on them.
3. Beside it: k raw neurons chosen in the same way, and a dense logistic probe on all of the activation.
4. Accuracy and AUROC on the other side; and, where they are given, on examples of another kind.
5. Null: the same with all labels shuffled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite, wilson_interval
from digsite._core.progress import track
from digsite._core.provenance import record
from digsite._core.ranking import auroc, auroc_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.splice import encoded
from digsite.directions import Labelled
from digsite.directions.labelled import shuffled, split
from digsite.directions.probes import logistic
from digsite.directions.probes.sparse import PENALTY, columns_of, furthest_apart
from digsite.store import Latents, Rows

KS = (1, 2, 5, 16)
"""How many latents a sparse probe may read."""
FEWEST = 16
"""Examples of each label below which no probe is fitted."""


@dataclass(frozen=True, kw_only=True)
class SparseProbing(Result):
    """How well a label can be read from a few latents.

    Attributes:
        label: What the label says.
        dictionary: What was probed.
        probes: Names of the probes: "1 latent", "16 neurons", "dense probe" …
        chosen: The latents or neurons that each probe reads, by number; none for a dense one.
        labels: Of the held-out examples.
        scores: The log odds that each probe gives each held-out example.
        labels_elsewhere: Of the examples of another kind; none if there are none.
        scores_elsewhere: The log odds there.
        null: AUROC of each probe with shuffled labels.
    """

    SCHEMA: ClassVar[str] = "dictionaries.sparse_probing/1"

    label: str
    dictionary: str
    probes: tuple[str, ...]
    chosen: tuple[tuple[int, ...], ...]
    labels: Bool[Tensor, " example"]
    scores: Float[Tensor, "probe example"]
    labels_elsewhere: Bool[Tensor, " other"]
    scores_elsewhere: Float[Tensor, "probe other"]
    null: Float[Tensor, "probe draw"]

    def to_frame(self, *, resamples: int = 1000, seed: int = 0) -> pl.DataFrame:
        """One row a probe: accuracy (Wilson) and AUROC (bootstrap) with 95 % intervals, the null's largest AUROC."""
        rows = []
        labels, n = self.labels.numpy(), len(self.labels)
        elsewhere = self.labels_elsewhere.numpy()
        for at, name in enumerate(self.probes):
            right = int(((self.scores[at] > 0) == self.labels).sum())
            low, high = auroc_interval(self.scores[at].numpy(), labels, resamples=resamples, seed=seed)
            away = self.scores_elsewhere[at].numpy()
            accuracy = wilson_interval(right, n)
            rows.append(
                {
                    "probe": name,
                    "accuracy": right / n,
                    "accuracy_low": accuracy[0],
                    "accuracy_high": accuracy[1],
                    "auroc": float(auroc(self.scores[at].numpy(), labels)),
                    "low": low,
                    "high": high,
                    "null_mean": float(self.null[at].mean()) if self.null.shape[1] else None,
                    "null_max": float(self.null[at].max()) if self.null.shape[1] else None,
                    "elsewhere": float(auroc(away, elsewhere)) if len(elsewhere) else None,
                    "n": n,
                }
            )
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = {row["probe"]: row for row in self.to_frame().to_dicts()}
        dense = rows["dense probe"]
        best = max((row for name, row in rows.items() if "latent" in name), key=lambda row: row["auroc"])
        like = rows.get(best["probe"].replace("latent", "neuron"))
        said = [f"a dense probe {dense['auroc']:.2f}"]
        said += [f"{like['probe']} {like['auroc']:.2f}"] if like else []
        said += [f"shuffled labels at most {best['null_max']:.2f}"] if best["null_max"] is not None else []
        failed = [dense["probe"]] if dense["auroc"] >= best["auroc"] else []
        failed += [like["probe"]] if like and like["auroc"] >= best["auroc"] else []
        failed += ["shuffled labels"] if best["null_max"] is not None and best["null_max"] >= best["low"] else []
        lost = f", so the latents do no better than {' and '.join(failed)}" if failed else ""
        shift = ""
        if len(self.labels_elsewhere):
            shift = f"; on other examples {best['elsewhere']:.2f} (dense {dense['elsewhere']:.2f})"
        return (
            f"{self.label}: read from {best['probe']} with an AUROC of {best['auroc']:.2f} (95 % {best['low']:.2f} to "
            f"{best['high']:.2f}); {', '.join(said)}{lost}{shift}; n = {best['n']} held-out examples"
        )


@method
def sparse_probing(
    dictionary: Dictionary,
    labelled: Labelled,
    *,
    ks: Sequence[int] = KS,
    neurons: str | None = None,
    elsewhere: Labelled | None = None,
    draws: int = 10,
    held_out: float = 0.5,
    seed: int = 0,
) -> SparseProbing:
    """How well a label can be read from a few latents, beside raw neurons and a dense probe on the same examples.

    Args:
        dictionary: The dictionary; latents of all its blocks may be chosen.
        labelled: Activations with labels; see `task_rows`.
        ks: How many latents a probe may read.
        neurons: The column whose coordinates are the raw neurons; None for all that the dictionary reads.
        elsewhere: Examples of another kind (other wording, other subject), to test the same probes on.
        draws: How often the null is drawn.
        held_out: Fraction of the examples that is held out.
        seed: Of the split and the null.

    Raises:
        BadInput: Fewer than sixteen examples of a label, labels that are not as many as rows, a k that is none.
        NotFinite: An activation is NaN or infinite.

    Units: AUROC and accuracy, fractions.

    Source: Gurnee et al. 2023, arXiv 2305.01610 (choice by difference of means); Kantamneni et al. 2025, arXiv
    2502.16681, and Smith et al. 2025 ("Negative results for sparse autoencoders on downstream tasks") for the dense
    probe as the baseline that a dictionary seldom beats.

    Caveats:
        A probe shows what can be read, not what the model uses.
    """
    _check(dictionary, labelled, ks)
    train, test = split(labelled.labels, labelled.groups, held_out, seed)
    with measure() as cost, torch.no_grad():
        sides = [labelled.rows.take(train), labelled.rows.take(test)]
        sides += [] if elsewhere is None else [elsewhere.rows]
        latents = [_joined(encoded(dictionary, side)) for side in sides]
        raw = [_flat(side, (neurons,) if neurons else dictionary.reads) for side in sides]
        dense = [_flat(side, dictionary.reads) for side in sides]
        generator = np.random.default_rng(seed)
        shuffles = shuffled(labelled.labels, labelled.groups, draws, generator, train, test)
        names, chosen, scores, null = [], [], [], []
        probes = [(f"{k} latent" + "s" * (k > 1), k, latents) for k in ks]
        probes += [(f"{k} neuron" + "s" * (k > 1), k, raw) for k in ks]
        for name, k, seen in track([*probes, ("dense probe", None, dense)], "fitting probes"):
            found, which = _probed(seen, labelled.labels[train], k)
            names.append(name)
            chosen.append(which)
            scores.append(found)
            mixed = [(_probed(seen[:2], some[train], k)[0][0], some[test].numpy()) for some in shuffles]
            null.append([float(auroc(*one)) for one in mixed])
    return SparseProbing(
        label=labelled.name,
        dictionary=repr(dictionary).removeprefix("Dictionary "),
        probes=tuple(names),
        chosen=tuple(chosen),
        labels=labelled.labels[test],
        scores=torch.from_numpy(np.stack([some[0] for some in scores])),
        labels_elsewhere=torch.zeros(0, dtype=torch.bool) if elsewhere is None else elsewhere.labels,
        scores_elsewhere=torch.from_numpy(np.stack([some[1] for some in scores]))
        if elsewhere is not None
        else torch.zeros(len(names), 0, dtype=torch.float64),
        null=torch.tensor(null, dtype=torch.float64).reshape(len(names), draws),
        provenance=record(f"digsite.dictionaries.sparse_probing(dictionary, labelled, ks={tuple(ks)})", seed=seed),
        cost=cost,
    )


def _probed(
    parts: Sequence[Latents | Tensor], labels: Bool[Tensor, " example"], k: int | None
) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """2. The log odds on every part but the first, on which the probe is fitted; and what it reads."""
    if k is None:
        train, *others = (part for part in parts if isinstance(part, Tensor))
        which = None
    else:
        which = furthest_apart(parts[0], labels, k)
        train, *others = (columns_of(part, which) for part in parts)
    fitted = logistic(train, labels) if k is None else logistic(train, labels, penalties=(PENALTY,))
    return [fitted.scores(x).numpy() for x in others], () if which is None else tuple(which.tolist())


def _joined(blocks: list[Latents]) -> Latents:
    """The latents of all blocks as those of one, one block after the other."""
    if len(blocks) == 1:
        return blocks[0]
    dense = sum(block.width for block in blocks)
    counts = torch.stack([block.bounds.diff() for block in blocks])
    rows = torch.cat([block.rows for block in blocks])
    starts = np.cumsum([0, *(block.width for block in blocks[:-1])]).tolist()
    indices = torch.cat([block.flat[1] + start for block, start in zip(blocks, starts, strict=True)])
    values = torch.cat([block.flat[0] for block in blocks])
    order = rows.argsort(stable=True)
    offsets = torch.cat([counts.new_zeros(1), counts.sum(0).cumsum(0)])
    return Latents(values[order], indices[order], dense, offsets)


def _flat(rows: Rows, columns: Sequence[str]) -> Float[Tensor, "example d"]:
    return torch.cat([require_finite(name, rows[name]).float().cpu() for name in columns], 1)


def _check(dictionary: Dictionary, labelled: Labelled, ks: Sequence[int]) -> None:
    if len(labelled.labels) != labelled.rows.count:
        found = f"{len(labelled.labels)} labels, {labelled.rows.count} rows"
        raise BadInput(explain("Every row has a label", found=found))
    yes = int(labelled.labels.sum())
    if min(yes, len(labelled.labels) - yes) < FEWEST:
        found = f"{yes} with the label, {len(labelled.labels) - yes} without"
        raise BadInput(explain(f"A probe needs {FEWEST} examples with the label and as many without", found=found))
    if not ks or min(ks) < 1 or max(ks) > dictionary.width:
        raise BadInput(explain(f"ks={tuple(ks)} are no numbers of latents", possible=f"1 to {dictionary.width}"))
