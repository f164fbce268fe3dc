"""What a logit tensor says about answers: one number per example, every formula said once.

An answer's score is its log-probability in nats: the sum over its tokens of log softmax(logits) at the column that
predicts the token, or the mean over its tokens where the task asks for `normalise="length"`. Each metric is a
reduction of these scores over the right and the wrong answers of an example.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite._core.numerics import require_finite
from digsite.models.prediction import kl
from digsite.tasks.answers import Answers


class Question(NamedTuple):
    """All that a metric may look at."""

    logits: Float[Tensor, "batch pos vocab"]
    right: Answers
    wrong: Answers
    reference: Float[Tensor, "batch pos vocab"] | None
    per_token: bool


class Metric(NamedTuple):
    """A metric's meaning, beside the function that computes it."""

    compute: Callable[[Question], Float[Tensor, " example"]]
    unit: str
    better: str  # "higher" or "lower"
    differentiable: bool
    needs: str  # "wrong", "reference" or nothing
    formula: str


def answer_scores(
    logits: Float[Tensor, "batch pos vocab"], answers: Answers, *, per_token: bool = False
) -> Float[Tensor, "example choice"]:
    """How probable the model finds each answer, as a log-probability.

    Args:
        logits: The last columns of every row, at least as many as the longest answer has tokens.
        answers: The answers and the rows on which they are read.
        per_token: Divide by the number of tokens of the answer.

    Returns:
        log p(answer | prompt) = Σ_t log softmax(logits[row, column_t])[id_t]; minus infinity where an example has
        fewer answers than others.

    Units:
        Nats (per token where asked for).
    """
    rows, columns = answers.rows[..., None], answers.columns
    log_p = logits[rows, columns, answers.ids] - logits.logsumexp(-1)[rows, columns]
    return _reduce(log_p, answers, per_token=per_token).masked_fill(~answers.real, -torch.inf)


def _reduce(
    values: Float[Tensor, "example choice token"], answers: Answers, *, per_token: bool
) -> Float[Tensor, "example choice"]:
    total = values.masked_fill(~answers.mask, 0).sum(-1)
    return total / answers.mask.sum(-1).clamp(min=1) if per_token else total


def _mean(values: Float[Tensor, "example choice"], answers: Answers) -> Float[Tensor, " example"]:
    return values.masked_fill(~answers.real, 0).sum(-1) / answers.real.sum(-1)


def _scores(q: Question, answers: Answers) -> Float[Tensor, "example choice"]:
    return answer_scores(q.logits, answers, per_token=q.per_token)


def _logit_diff(q: Question) -> Float[Tensor, " example"]:
    if q.right.ids.shape[-1] == q.wrong.ids.shape[-1] == 1:
        # The normaliser of the softmax is the same on both sides and cancels; leaving it out keeps the metric linear.
        right, wrong = (q.logits[a.rows, -1, a.ids[..., 0]] for a in (q.right, q.wrong))
    else:
        right, wrong = _scores(q, q.right), _scores(q, q.wrong)
    return _mean(right, q.right) - _mean(wrong, q.wrong)


def _log_prob(q: Question) -> Float[Tensor, " example"]:
    return _scores(q, q.right).logsumexp(-1)


def _prob(q: Question) -> Float[Tensor, " example"]:
    return _scores(q, q.right).exp().sum(-1)


def _prob_diff(q: Question) -> Float[Tensor, " example"]:
    return _prob(q) - _scores(q, q.wrong).exp().sum(-1)


def _kl(q: Question) -> Float[Tensor, " example"]:
    assert q.reference is not None
    width = q.right.ids.shape[-1]
    log_p, log_q = (x[:, -width:].log_softmax(-1) for x in (q.reference, q.logits))
    each = kl(log_p, log_q)[q.right.rows[..., None], q.right.columns]
    return _mean(_reduce(each, q.right, per_token=q.per_token), q.right)


def _rank(q: Question) -> Float[Tensor, " example"]:
    examples = torch.arange(len(q.right.ids), device=q.logits.device)
    best = _scores(q, q.right).argmax(-1)
    row, ids, mask = (x[examples, best] for x in (q.right.rows, q.right.ids, q.right.mask))
    at = q.logits[row[:, None], q.right.columns]
    not_below = (at >= at.gather(-1, ids[..., None])).sum(-1)
    return not_below.masked_fill(~mask, 0).amax(-1).to(q.logits.dtype)


def _accuracy(q: Question) -> Float[Tensor, " example"]:
    if not q.wrong.ids.shape[1]:
        return (_rank(q) == 1).to(q.logits.dtype)
    return (_scores(q, q.right).amax(-1) > _scores(q, q.wrong).amax(-1)).to(q.logits.dtype)


METRICS: dict[str, Metric] = {
    "logit_diff": Metric(
        _logit_diff, "logits", better="higher", differentiable=True, needs="wrong",
        formula="mean over right answers of the logit − mean over wrong answers; with answers of several tokens the "
        "logit is the answer's log-probability (the same number for one token, because the normaliser cancels)",
    ),
    "log_prob": Metric(
        _log_prob, "nats", better="higher", differentiable=True, needs="",
        formula="log of the summed probability of the right answers",
    ),
    "prob": Metric(
        _prob, "fraction", better="higher", differentiable=True, needs="",
        formula="summed probability of the right answers",
    ),
    "prob_diff": Metric(
        _prob_diff, "fraction", better="higher", differentiable=True, needs="wrong",
        formula="summed probability of the right answers − summed probability of the wrong answers",
    ),
    "kl": Metric(
        _kl, "nats", better="lower", differentiable=True, needs="reference",
        formula="KL(reference ‖ run) = Σ_vocab p_ref (log p_ref − log p_run), summed over the columns that predict an "
        "answer and averaged over the right answers",
    ),
    "rank": Metric(
        _rank, "place", better="lower", differentiable=False, needs="",
        formula="number of vocabulary entries whose logit is at least that of the most probable right answer (1 = "
        "alone at the top; ties count against it); for several tokens the worst of their ranks",
    ),
    "accuracy": Metric(
        _accuracy, "fraction", better="higher", differentiable=False, needs="",
        formula="1 where the most probable right answer is more probable than every wrong one, else 0; without wrong "
        "answers 1 where the rank is 1",
    ),
}  # fmt: skip
"""Every metric by its name, as the glossary has it."""


def metric_named(name: str) -> Metric:
    """The metric of that name.

    Raises:
        BadInput: There is no such metric; the message lists those that exist.
    """
    if name not in METRICS:
        raise BadInput(explain(f"There is no metric {name!r}", possible=METRICS, near=name))
    return METRICS[name]


def measure_answers(
    name: str,
    logits: Float[Tensor, "batch pos vocab"],
    right: Answers,
    wrong: Answers,
    *,
    reference: Float[Tensor, "batch columns vocab"] | None = None,
    per_token: bool = False,
) -> Float[Tensor, " example"]:
    """One number per example: how well these logits answer.

    Args:
        name: A metric of `METRICS`, where each formula is said.
        logits: The last columns of the logits, as many as the longest answer has tokens, or more.
        right: The answers that are right.
        wrong: The answers that are wrong; no choices where the task has none.
        reference: The logits to compare with, for `kl`.
        per_token: An answer's score is its log-probability per token instead of in total.

    Returns:
        Differentiable with respect to `logits` except for `rank` and `accuracy`.

    Raises:
        BadInput: No such metric, or it needs wrong answers or a reference that are not there.
        ShapeMismatch: Too few columns or rows.
        NotFinite: The logits hold NaN or infinity in the columns that are read.

    Units:
        `METRICS[name].unit`. Half precision is computed in float32.

    Caveats:
        Per token, `prob` is the geometric mean of the token probabilities, not a probability of the answer.
    """
    metric = metric_named(name)
    if metric.needs == "wrong" and not bool(wrong.real.any(-1).all()):
        raise BadInput(
            explain(
                f"The metric {name} compares right with wrong answers",
                found="examples without a wrong answer",
                possible=[known for known, other in METRICS.items() if other.needs != "wrong"],
            )
        )
    if metric.needs == "reference" and reference is None:
        raise BadInput(explain(f"The metric {name} compares with other logits", do="pass reference=logits"))
    logits = _last_columns("logits", logits, right, wrong)
    if reference is not None:
        reference = _last_columns("reference", reference.to(logits.device), right, wrong)
    device = logits.device
    return metric.compute(Question(logits, right.to(device), wrong.to(device), reference, per_token))


def _last_columns(
    what: str, logits: Float[Tensor, "batch pos vocab"], right: Answers, wrong: Answers
) -> Float[Tensor, "batch columns vocab"]:
    keep = max(right.ids.shape[-1], wrong.ids.shape[-1])
    rows = 1 + max(int(side.rows[side.real].max()) for side in (right, wrong) if side.real.any())
    if logits.shape[0] != rows or logits.shape[1] < keep:
        raise ShapeMismatch(
            explain(
                f"The shape of {what} does not fit the task",
                found=f"{logits.shape[0]} rows and {logits.shape[1]} columns",
                possible=f"{rows} rows (one for each row of task.clean) and the last {keep} columns or more",
            )
        )
    logits = logits[:, -keep:]
    require_finite(what, logits)
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
