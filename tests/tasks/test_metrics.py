"""Metrics against formulas written out by hand on hand-made logits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from digsite._core.errors import BadInput, NotFinite, ShapeMismatch
from digsite.tasks.answers import Answers
from digsite.tasks.metrics import METRICS, answer_scores, measure_answers

V = 7


def answers(*examples, rows=None, width=None):
    """Answers from lists of lists of ids; each example on its own row unless `rows` says otherwise."""
    width = width or max((len(ids) for example in examples for ids in example), default=1)
    choices = max(map(len, examples), default=0)
    ids = torch.zeros(len(examples), choices, width, dtype=torch.long)
    mask = torch.zeros(len(examples), choices, width, dtype=torch.bool)
    for i, example in enumerate(examples):
        for j, answer in enumerate(example):
            ids[i, j, width - len(answer) :] = torch.tensor(answer)
            mask[i, j, width - len(answer) :] = True
    if rows is None:
        rows = torch.arange(len(examples))[:, None].expand(-1, choices).clone()
    return Answers(ids, mask, torch.as_tensor(rows), tuple(tuple(map(str, e)) for e in examples))


RIGHT, WRONG = answers([[1], [2]], [[3]]), answers([[4]], [[5], [6]])


@pytest.fixture
def logits():
    return torch.randn(2, 3, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def measured(name, logits, right=RIGHT, wrong=WRONG, **options):
    return measure_answers(name, logits, right, wrong, **options)


def test_one_token_metrics_equal_their_formulas(logits):
    last = logits[:, -1]
    p = last.softmax(-1)
    right = torch.stack([p[0, 1] + p[0, 2], p[1, 3]])
    wrong = torch.stack([p[0, 4], p[1, 5] + p[1, 6]])
    by_hand = {
        "logit_diff": torch.stack(
            [(last[0, 1] + last[0, 2]) / 2 - last[0, 4], last[1, 3] - (last[1, 5] + last[1, 6]) / 2]
        ),
        "prob": right,
        "log_prob": right.log(),
        "prob_diff": right - wrong,
        "rank": torch.stack([(last[0] >= last[0, 1:3].max()).sum(), (last[1] >= last[1, 3]).sum()]).double(),
        "accuracy": torch.stack([p[0, 1:3].max() > p[0, 4], p[1, 3] > p[1, 5:7].max()]).double(),
    }
    assert {*by_hand, "kl"} == set(METRICS)
    for name, expected in by_hand.items():
        torch.testing.assert_close(measured(name, logits), expected, msg=name)


def test_kl_is_summed_over_the_vocabulary_and_points_from_the_reference(logits):
    reference = logits.flip(-1)
    p, q = reference[:, -1].softmax(-1), logits[:, -1].softmax(-1)
    expected = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(measured("kl", logits, reference=reference), expected)
    torch.testing.assert_close(measured("kl", logits, reference=logits), torch.zeros(2, dtype=torch.float64))


def test_extra_columns_change_nothing(logits):
    for name, metric in METRICS.items():
        if metric.needs != "reference":
            torch.testing.assert_close(measured(name, logits), measured(name, logits[:, -1:]))


# Two examples with answers of several tokens: rows 0 and 1 hold the right answers, rows 2, 3 and 4 the wrong ones.
LONG_RIGHT = answers([[1, 2, 3]], [[4]], rows=[[0], [1]])
LONG_WRONG = answers([[5], [6, 1]], [[2, 2]], rows=[[2, 3], [4, 0]], width=2)


def test_a_long_answer_scores_the_sum_of_its_tokens():
    logits = torch.randn(5, 4, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lp = logits.log_softmax(-1)
    right = torch.stack([lp[0, -3, 1] + lp[0, -2, 2] + lp[0, -1, 3], lp[1, -1, 4]])
    wrong = [lp[2, -1, 5], lp[3, -2, 6] + lp[3, -1, 1], lp[4, -2, 2] + lp[4, -1, 2]]
    torch.testing.assert_close(measured("log_prob", logits, LONG_RIGHT, LONG_WRONG), right)
    expected = torch.stack([right[0] - (wrong[0] + wrong[1]) / 2, right[1] - wrong[2]])
    torch.testing.assert_close(measured("logit_diff", logits, LONG_RIGHT, LONG_WRONG), expected)
    expected = right.exp() - torch.stack([wrong[0].exp() + wrong[1].exp(), wrong[2].exp()])
    torch.testing.assert_close(measured("prob_diff", logits, LONG_RIGHT, LONG_WRONG), expected)
    per_token = torch.stack([right[0] / 3 - (wrong[0] + wrong[1] / 2) / 2, right[1] - wrong[2] / 2])
    torch.testing.assert_close(measured("logit_diff", logits, LONG_RIGHT, LONG_WRONG, per_token=True), per_token)
    assert answer_scores(logits, LONG_WRONG)[1, 1] == -math.inf  # the second example has one wrong answer only


def test_a_long_answer_has_rank_one_only_if_greedy_decoding_writes_it():
    logits = torch.zeros(5, 3, V)
    for column, token in zip((-3, -2, -1), (1, 2, 3), strict=True):
        logits[0, column, token] = 5
    logits[1, -1, [0, 6]] = 5
    logits[1, -1, 4] = 4
    torch.testing.assert_close(measured("rank", logits, LONG_RIGHT, LONG_WRONG), torch.tensor([1.0, 3.0]))
    logits[0, -2, 0] = 6
    assert measured("rank", logits, LONG_RIGHT, LONG_WRONG)[0] == 2


def test_ties_count_against_the_answer():
    flat = torch.zeros(2, 1, V)
    assert measured("rank", flat).tolist() == [V, V]
    assert measured("accuracy", flat).tolist() == [0, 0]


def test_without_wrong_answers_accuracy_asks_for_the_top(logits):
    none = answers([], [])
    ranks = measured("rank", logits, wrong=none)
    assert measured("accuracy", logits, wrong=none).tolist() == (ranks == 1).double().tolist()
    with pytest.raises(BadInput, match=r"The metric logit_diff compares right with wrong answers"):
        measured("logit_diff", logits, wrong=none)


@pytest.mark.parametrize("sides", [(RIGHT, WRONG), (LONG_RIGHT, LONG_WRONG)], ids=["one token", "several"])
def test_gradients_flow_where_the_table_says_so(sides):
    right, wrong = sides
    rows = 1 + int(max(right.rows.max(), wrong.rows.max()))
    logits = torch.randn(rows, 3, V, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    reference = torch.randn(rows, 3, V, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for name, metric in METRICS.items():

        def value(x, name=name):
            return measure_answers(name, x, right, wrong, reference=reference)

        if metric.differentiable:
            assert torch.autograd.gradcheck(value, logits), name
        else:
            assert not value(logits).requires_grad, name


@settings(deadline=None, max_examples=50)
@given(arrays("float64", (2, 1, V), elements=st.floats(-30, 30)), st.floats(-20, 20))
def test_adding_a_constant_to_all_logits_changes_no_metric(values, shift):
    logits = torch.from_numpy(values)
    for name, metric in METRICS.items():
        if metric.needs == "reference" or not metric.differentiable:
            continue  # rank and accuracy compare floats exactly, and a shift may round two of them together
        torch.testing.assert_close(measured(name, logits + shift), measured(name, logits), atol=1e-9, rtol=1e-7)


@settings(deadline=None, max_examples=50)
@given(
    arrays("float64", (2, 2, V), elements=st.floats(-30, 30)), arrays("float64", (2, 2, V), elements=st.floats(-9, 9))
)
def test_metrics_stay_in_their_range(values, other):
    logits, reference = torch.from_numpy(values), torch.from_numpy(other)
    assert ((measured("prob", logits) >= 0) & (measured("prob", logits) <= 1 + 1e-9)).all()
    assert (measured("prob_diff", logits).abs() <= 1 + 1e-9).all()
    assert ((measured("rank", logits) >= 1) & (measured("rank", logits) <= V)).all()
    assert (measured("kl", logits, reference=reference) >= -1e-9).all()
    # One token or several, the logit difference is the difference of the mean log-probabilities.
    by_scores = [
        answer_scores(logits, side).masked_fill(~side.real, 0).sum(-1) / side.real.sum(-1) for side in (RIGHT, WRONG)
    ]
    torch.testing.assert_close(measured("logit_diff", logits), by_scores[0] - by_scores[1], atol=1e-9, rtol=1e-9)


def test_half_precision_is_computed_in_float32(logits):
    half = logits.bfloat16()
    assert measured("log_prob", half).dtype == torch.float32
    torch.testing.assert_close(measured("log_prob", half), measured("log_prob", half.float()))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(logits, bad):
    logits[1, -1, 0] = bad
    with pytest.raises(
        NotFinite, match=r"logits must be finite.\nFound: 1 of 14 are not, the first is .* at \[1, 0, 0\]"
    ):
        measured("prob", logits)
    logits[1, -1, 0], logits[1, 0, 0] = 0, bad  # a column that is not read may hold anything
    assert measured("prob", logits).isfinite().all()
    with pytest.raises(NotFinite, match=r"reference must be finite"):
        measured("kl", torch.zeros(2, 1, V), reference=torch.full((2, 1, V), bad))


def test_refusals_say_what_fits(logits):
    with pytest.raises(ShapeMismatch, match=r"Found: 1 rows and 3 columns\.\nPossible: 2 rows"):
        measured("prob", logits[:1])
    with pytest.raises(ShapeMismatch, match=r"the last 3 columns or more"):
        measured("prob", torch.zeros(5, 2, V), LONG_RIGHT, LONG_WRONG)
    with pytest.raises(BadInput, match=r"There is no metric 'logit_dif'.\nPossible: did you mean logit_diff?"):
        measured("logit_dif", logits)
    with pytest.raises(BadInput, match=r"The metric kl compares with other logits.\nDo: pass reference=logits"):
        measured("kl", logits)
    with pytest.raises(
        ShapeMismatch, match=r"The shape of reference does not fit the task.\nFound: 2 rows and 0 columns"
    ):
        measured("kl", logits, reference=logits[:, :0])


def test_every_metric_says_what_it_means():
    for name, metric in METRICS.items():
        assert metric.unit and metric.formula and metric.better in ("higher", "lower"), name
