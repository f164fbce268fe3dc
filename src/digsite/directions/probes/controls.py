"""What a probe card sets beside a probe: probabilities, neutral text, shuffled labels, and fewer examples."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite._core.progress import track
from digsite._core.ranking import auroc
from digsite.directions.direction import Direction
from digsite.directions.labelled import shuffled
from digsite.directions.measuring import content
from digsite.directions.probes.fits import Fit
from digsite.directions.probes.fitting import bag_of_words, scorer
from digsite.directions.probes.judged import log_odds
from digsite.directions.probes.prompts import BATCH, LabelledPrompts
from digsite.models import Model
from digsite.models.measure import TokenSource
from digsite.models.tokens import Positions

FOLDS = 4
DRAWS_OF_A_SIZE = 5
FEWEST = 8
"""Examples in the smallest part that a probe is fitted on."""


def calibrated(fit: Fit, x: Tensor, train: LabelledPrompts, seed: int) -> tuple[float, float]:
    """Slope and offset of the log odds, from examples that the probe of each fold was not fitted on."""
    names, member = train.grouped.unique(return_inverse=True)
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(names)))
    fold = (order % FOLDS)[member]
    scores = torch.zeros(len(train), dtype=torch.float64)
    done = torch.zeros(len(train), dtype=torch.bool)
    for at in range(FOLDS):
        rest = train.labels[fold != at]
        if bool(rest.any()) and not bool(rest.all()):
            scores[fold == at] = scorer(fit, x[fold != at], rest)(x[fold == at]).double()
            done |= fold == at
    return log_odds(scores[done], train.labels[done])


def threshold_for(neutral: Float[Tensor, " piece"], rate: float) -> float:
    """The score that a further piece of neutral text exceeds at most so often.

    Raises:
        BadInput: Too few pieces for the rate.
    """
    needed, count = math.ceil(1 / rate) - 1, len(neutral)
    if count < needed:
        asked = f"A rate of false positives of {rate:.2%} needs {needed} pieces of neutral text or more"
        raise BadInput(explain(asked, found=f"{count}", do="give more text, or a higher rate"))
    return float(neutral.sort().values[math.ceil((1 - rate) * (count + 1) - 1e-9) - 1])


def neutral_scores(
    model: Model, direction: Direction, neutral: TokenSource | None, span: int, at: Positions
) -> Float[Tensor, " piece"]:
    """The scores of neutral text: averaged over the positions `at` of each row; or, where these are None, over pieces
    of `span` tokens that do not overlap, the BOS left out."""
    pieces = [torch.zeros(0, dtype=torch.float64)]
    for tokens in () if neutral is None else neutral.batches(BATCH):
        scores = direction.read(model.run(tokens, read=[direction.site], logits=None)).double().cpu()
        require_finite("a score of neutral text", scores[tokens.mask])
        if at is not None:
            places = tokens.places(at)
            total = torch.zeros(len(tokens), dtype=scores.dtype)
            total.index_add_(0, places.rows, scores[places.rows, places.columns])
            pieces.append(total / torch.bincount(places.rows, minlength=len(tokens)))
            continue
        for row, keep in zip(scores, content(tokens, model.tokenizer), strict=True):
            found = row[keep]
            pieces.append(found[: len(found) // span * span].reshape(-1, span).mean(1))
    return torch.cat(pieces)


def shuffled_aurocs(
    fit: Fit, train: tuple[Tensor, LabelledPrompts], test: tuple[Tensor, LabelledPrompts], draws: int, seed: int
) -> Float[Tensor, " draw"]:
    """The AUROC of probes of labels that mean nothing."""
    count, (inside, outside) = len(train[1]), (train[1], test[1])
    labels, groups = (torch.cat(both) for both in ((inside.labels, outside.labels), (inside.grouped, outside.grouped)))
    parts = torch.arange(len(labels)).split([count, len(outside)])
    found = []
    for mixed in track(shuffled(labels, groups, draws, np.random.default_rng([seed, 3]), *parts), "shuffling labels"):
        read = scorer(fit, train[0], mixed[:count])(test[0])
        found.append(float(auroc(read.numpy(), mixed[count:].numpy())))
    return torch.tensor(found, dtype=torch.float64)


def scarcity(
    fit: Fit, train: tuple[Tensor, LabelledPrompts], test: tuple[Tensor, LabelledPrompts], seed: int
) -> tuple[Int[Tensor, " size"], Float[Tensor, "size draw"], Float[Tensor, "size draw"]]:
    """AUROC of probes and of bags of words by how many examples they were fitted on."""
    (x, inside), (outside, judge) = train, test
    ids, others, truth = inside.seen(), judge.seen(), judge.labels.numpy()
    sizes = [*(FEWEST * 2**power for power in range(20) if FEWEST * 2**power < len(inside)), len(inside)]
    names, member = inside.grouped.unique(return_inverse=True)
    found = torch.full((2, len(sizes), DRAWS_OF_A_SIZE), torch.nan, dtype=torch.float64)
    for draw in range(DRAWS_OF_A_SIZE):
        place = torch.from_numpy(np.random.default_rng([seed, 2, draw]).permutation(len(names)))[member]
        order = place.argsort(stable=True)  # whole groups, one after the other
        for at, size in enumerate(sizes):
            some = order[:size]
            labels = inside.labels[some]
            if bool(labels.any()) and not bool(labels.all()):
                read = scorer(fit, x[some], labels)(outside).numpy()
                words = bag_of_words([ids[row] for row in some.tolist()], labels)(others).numpy()
                found[:, at, draw] = torch.tensor([float(auroc(read, truth)), float(auroc(words, truth))])
    return torch.tensor(sizes), found[0], found[1]
