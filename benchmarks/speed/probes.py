"""A sweep of probes over all layers and positions, beside scikit-learn fitted one cell after the other.

1. A GPT-2 of random weights reads 200 texts of 12 tokens: half fitted on, half held out. A cell: a layer at a position.
   The label goes with a word at position 5, so that some cells can be read and others cannot.
2. Both read the model once; both do the same for each cell: standardise, choose the penalty C of 0.01, 0.1 and 1 on the
   same thirds by the balanced log loss, fit, score what is held out. For ridge and LDA scikit-learn's own classes.
   digsite fits five shuffled labellings as well in the second setting, and so does the loop.
3. Results first: held-out scores (log odds) of every cell.
"""

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import digsite
from digsite.directions.labelled import read_at
from digsite.directions.probes.solving import PENALTIES, SOLVERS, settled, thirds

from .rounds import apart, interleaved
from .table import Row, Table, conditions

TEXTS, LENGTH, WORD = 200, 12, 5
TARGET, ROUNDS = 5.0, 3
TOLERANCE = {"logistic": 1e-2, "lda": 0.02}
SETTINGS = ((64, 2, "logistic", 0), (64, 2, "logistic", 5), (256, 2, "logistic", 0), (64, 2, "lda", 0))


def model_of(width: int, layers: int) -> digsite.Model:
    """A GPT-2 of random weights."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=200, n_positions=LENGTH, n_embd=width, n_layer=layers, n_head=4, bos_token_id=0, eos_token_id=0
    )
    return digsite.load(GPT2LMHeadModel(config).eval(), verify=False)


def cells(model: digsite.Model) -> Tensor:
    """Activations [cell, example, width] from one reading."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 200, (TEXTS, LENGTH), generator=draw)
    ids[:, WORD] = (torch.arange(TEXTS) % 2) ^ (torch.rand(TEXTS, generator=draw) < 0.05).long()
    columns = [f"layers.{layer}.resid_post" for layer in range(model.n_layers)]
    rows, places = (one.flatten() for one in torch.meshgrid(*map(torch.arange, ids.shape), indexing="ij"))
    found = read_at(model, model.tokens(ids), columns, rows, places)
    return torch.cat([x.unflatten(0, ids.shape).transpose(0, 1) for x in found.values()]).double()


def loop(fit: str, x: Tensor, labels: Tensor) -> Tensor:
    """scikit-learn, one cell and one labelling after the other."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils.class_weight import compute_sample_weight

    half, part = TEXTS // 2, thirds(labels[0, : TEXTS // 2])
    assert part is not None
    thirds_of, known = part.numpy(), labels.numpy()

    def logistic(train: np.ndarray, y: np.ndarray, C: float) -> Any:
        scaler = StandardScaler().fit(train)
        fitted = LogisticRegression(C=C, class_weight="balanced", tol=1e-6, max_iter=1000)
        fitted.fit(scaler.transform(train), y)
        return lambda new: fitted.decision_function(scaler.transform(new))

    scores = np.empty((len(x), len(labels), TEXTS - half))
    for cell, one in enumerate(x.numpy()):
        chosen = 0.0
        for draw, y in enumerate(known):
            if fit == "lda":
                within = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
                scores[cell, draw] = within.fit(one[:half], y[:half]).decision_function(one[half:])
                continue
            if draw == 0:
                losses = []
                for C in PENALTIES:
                    total = 0.0
                    for third in range(3):
                        kept, out = thirds_of != third, thirds_of == third
                        said = logistic(one[:half][kept], y[:half][kept], C)(one[:half][out])
                        weight = compute_sample_weight("balanced", y[:half][out])
                        total += log_loss(y[:half][out], 1 / (1 + np.exp(-said)), sample_weight=weight, normalize=False)
                    losses.append(total)
                chosen = PENALTIES[int(np.argmin(losses))]
            scores[cell, draw] = logistic(one[:half], y[:half], chosen)(one[half:])
    return torch.from_numpy(scores)


def sweep(fit: str, x: Tensor, labels: Tensor) -> Tensor:
    """digsite, all cells of a layer and all labellings at once."""
    half = TEXTS // 2
    parts = [SOLVERS[fit](settled(some[:, :half]), labels[:, :half]).scores(some[:, half:]) for some in x.split(LENGTH)]
    return torch.cat(parts)


def measure(*, peers: bool, rounds: int | None) -> Table:
    """Runs the benchmark."""
    warnings.filterwarnings("ignore")
    rows = []
    for width, layers, fit, draws in SETTINGS:
        x = cells(model_of(width, layers))
        labels = torch.arange(TEXTS)[None] % 2 == 0
        generator = np.random.default_rng(0)
        mixed = [torch.from_numpy(generator.permutation(labels[0].numpy())) for _ in range(draws)]
        labels = torch.stack([labels[0], *mixed])
        with torch.no_grad():
            slow, fast = partial(loop, fit, x, labels), partial(sweep, fit, x, labels)
            difference = _difference(fit, fast(), slow(), labels)
            timings = interleaved([slow, fast], rounds=rounds or ROUNDS, warm=0)
        setting = (
            f"{fit}, {layers} layers × {LENGTH} positions, width {width}, {TEXTS} texts, {draws} shuffled labellings"
        )
        for who, name, timing, far in (
            ("scikit-learn", "one cell after the other", timings[0], 0.0),
            ("digsite", "all at once", timings[1], difference),
        ):
            rows.append(
                Row(
                    setting=setting,
                    who=who,
                    name=name,
                    value=timing.ms,
                    ratio=1 / timing.ratio,
                    low=1 / timing.high,
                    high=1 / timing.low,
                    apart=far,
                    tolerance=TOLERANCE[fit],
                    target=TARGET if who == "digsite" and fit == "logistic" else None,
                )
            )
    return Table(
        name="probes",
        question="How much faster is a sweep of probes than scikit-learn fitted one cell after the other?",
        unit="ms",
        better="higher",
        rows=rows,
        conditions=conditions(rounds=rounds or ROUNDS, time="process CPU"),
    )


def _difference(fit: str, ours: Tensor, theirs: Tensor, labels: Tensor) -> float:
    """Log odds; of LDA, whose shrinkage scikit-learn measures on standardised classes, the mean AUROC."""
    if fit == "logistic":
        return apart(ours, theirs)
    from digsite._core.ranking import auroc

    known = labels[:, TEXTS // 2 :].numpy()
    return float(np.abs(auroc(ours.numpy(), known) - auroc(theirs.numpy(), known)).mean())
