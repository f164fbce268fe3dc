"""Each fit is its formula, many at once are each alone, and a planted direction is found."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from digsite._core.errors import BadInput, NotFinite
from digsite.directions.labelled import Labelled, shuffled, split
from digsite.directions.probes import (
    FITS,
    lda,
    logistic,
    mass_mean,
    mean_difference,
    pca_of_pairs,
    probe,
    ridge,
    solving,
    sparse,
)
from digsite.directions.probes.attention import pooled
from digsite.directions.probes.ccs import ccs
from digsite.directions.probes.pairs import in_pairs
from digsite.directions.probes.solving import SOLVERS, least_squares, solve, thirds
from digsite.store import Rows

SITE = "layers.1.resid_post"


def planted(n=200, width=12, *, seed=0, shift=1.5, loud=4.0):
    """Two classes along one direction, and a loud nuisance beside it that has nothing to do with them."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64))[0]
    labels = torch.arange(n) % 2 == 0
    x = torch.randn(n, width, generator=draw, dtype=torch.float64)
    x[:, 0] = x[:, 0] * 0.3 + torch.where(labels, shift, -shift) / 2
    x[:, 1] *= loud
    return x @ basis + 3.0, labels, basis[0]


def labelled(x, labels, groups=None):
    return Labelled(name="planted", rows=Rows({SITE: x.float()}), labels=labels, groups=groups)


def cos(a, b):
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


# -- formulas --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [6, 90])
def test_lda_is_the_difference_of_means_by_the_shrunk_covariance_within_the_classes(width):
    x, labels, _ = planted(60, width)
    d = x[labels].mean(0) - x[~labels].mean(0)
    apart = torch.where(labels[:, None], x - x[labels].mean(0), x - x[~labels].mean(0))
    within = apart.T @ apart / len(x)
    whole = x - x.mean(0)
    _, gamma = ledoit_wolf(whole.numpy(), assume_centered=True)
    mu = float(whole.square().sum(0).mean() / len(x))
    wanted = torch.linalg.solve((1 - gamma) * within + gamma * mu * torch.eye(width, dtype=x.dtype), d)
    found = lda(x, labels)
    torch.testing.assert_close(found.vector, wanted)
    assert found.reader is None
    assert found.bias == pytest.approx(-float((x[labels].mean(0) + x[~labels].mean(0)) @ wanted) / 2)


def test_mass_mean_reads_with_the_whitened_difference_and_writes_the_difference():
    x, labels, _ = planted()
    found = mass_mean(x, labels)
    assert found.reader is not None
    torch.testing.assert_close(found.reader, lda(x, labels).vector)
    torch.testing.assert_close(found.vector, mean_difference(x, labels).vector)
    assert cos(found.reader, found.vector) < 0.999


@pytest.mark.parametrize("width", [8, 70])
@pytest.mark.parametrize("C", solving.PENALTIES)
def test_logistic_is_scikit_learns_at_the_same_penalty(width, C):
    x, labels, _ = planted(60, width, shift=0.5)
    labels = labels.clone()
    labels[:15] = True  # one label is more frequent
    found = logistic(x, labels, penalties=(C,))
    scaler = StandardScaler()
    theirs = LogisticRegression(C=C, class_weight="balanced", tol=1e-10, max_iter=10_000)
    theirs.fit(scaler.fit_transform(x.numpy()), labels.numpy())
    wanted = theirs.decision_function(scaler.transform(x.numpy()))
    np.testing.assert_allclose(found.scores(x).numpy(), wanted, atol=1e-4)


def test_logistic_finds_the_v_that_made_the_labels():
    draw = torch.Generator().manual_seed(0)
    x, v = torch.randn(4000, 10, generator=draw), torch.randn(10, generator=draw)
    labels = torch.rand(4000, generator=draw) < torch.sigmoid(x @ v - 0.5)
    assert cos(logistic(x, labels).vector, v) > 0.99


def test_ridge_is_weighted_least_squares():
    x, labels, _ = planted(50, 5)
    labels = labels.clone()
    labels[:10] = True
    found = ridge(x, labels)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    weight = torch.where(labels, 0.5 / labels.double().mean(), 0.5 / (~labels).double().mean()) / len(x)
    Z = torch.cat([z, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    scores = []
    for penalty in solving.SHRINKS:
        ridged = penalty * torch.diag(torch.tensor([1.0] * 5 + [0.0], dtype=x.dtype))
        target = torch.where(labels, 1.0, -1.0).double()
        scores.append(Z @ torch.linalg.solve(Z.T @ (weight[:, None] * Z) + ridged, Z.T @ (weight * target)))
    assert min(float((found.scores(x) - one).abs().max()) for one in scores) < 1e-9


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("width", [5, 40])
def test_many_cells_and_labellings_at_once_are_each_alone(name, width):
    x = torch.stack([planted(30, width, seed=seed)[0] for seed in range(3)])
    labels = planted(30, width)[1]
    found = solve(name, x, torch.stack([labels, labels.roll(7) ^ (torch.arange(30) % 5 == 0)]))
    for cell in range(3):
        alone = FITS[name](x[cell], labels)
        torch.testing.assert_close(found.scores(x)[cell, 0], alone.scores(x[cell]), atol=1e-4, rtol=1e-4)


def test_least_squares_reads_numbers():
    draw = torch.Generator().manual_seed(0)
    x, W = torch.randn(80, 6, generator=draw) + 2, torch.randn(2, 6, generator=draw)
    vectors, biases = least_squares(x, x @ W.T + torch.tensor([1.0, -2.0]), 1e-9)
    torch.testing.assert_close(vectors.float(), W, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(biases.float(), torch.tensor([1.0, -2.0]), atol=1e-4, rtol=1e-4)


# -- pairs -----------------------------------------------------------------------------------------------------------
def test_pca_of_pairs_keeps_the_mean_difference_that_a_librarys_pca_takes_away():
    x, labels, truth = planted(400, shift=3.0, loud=1.0)
    differences = (x[labels] - x[~labels]).numpy()
    theirs = torch.from_numpy(PCA(n_components=1).fit(differences).components_[0])  # pyright: ignore[reportOptionalSubscript]
    ours = pca_of_pairs(x, labels)
    assert abs(cos(theirs, truth)) < 0.2
    assert cos(ours.vector, truth) > 0.98
    middle = (x[labels] + x[~labels]) / 2
    centred = torch.cat([x[labels] - middle, x[~labels] - middle])
    same = torch.linalg.svd(centred, full_matrices=False)[2][0]
    assert abs(cos(ours.vector, same)) == pytest.approx(1)


def test_the_sign_of_a_principal_direction_comes_from_the_labels():
    x, labels, truth = planted(100, shift=3.0, loud=1.0)
    assert cos(pca_of_pairs(x, labels).vector, truth) > 0.9 and cos(pca_of_pairs(x, ~labels).vector, -truth) > 0.9


def test_pairs_are_found_by_their_groups():
    x, labels, _ = planted(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(20) // 2
    there = in_pairs(labelled(x[order], labels[order], groups[order]))
    paired = there.groups
    assert paired is not None and torch.equal(paired[there.labels], paired[~there.labels])


# -- CCS -------------------------------------------------------------------------------------------------------------
def contrasts(n=120, width=8, seed=0):
    """Statements and negations: a loud word for the negation, and truth along one direction."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.arange(n) % 2 == 0
    x = 0.4 * torch.randn(2, n, width, generator=draw, dtype=torch.float64)
    x[1, :, 0] += 9.0
    x[0, :, 1] += torch.where(truth, 1.0, -1.0)
    x[1, :, 1] += torch.where(truth, -1.0, 1.0)
    return x[0], x[1], truth


def test_ccs_finds_truth_without_labels_and_not_the_word_of_the_negation():
    yes, no, truth = contrasts()
    found = ccs(yes, no)
    said = found.probability(yes, no) > 0.5
    right = float((said == truth).double().mean())
    assert max(right, 1 - right) > 0.97
    assert abs(float(found.fitted.vector[0])) < 0.2 * abs(float(found.fitted.vector[1]))
    assert bool((found.losses.diff() >= 0).all()) and found.losses[0] < 0.1


def test_ccs_loses_the_mean_of_each_side_and_does_not_care_about_scale():
    yes, no, _ = contrasts()
    torch.testing.assert_close(ccs(yes, no + 5).probability(yes, no + 5), ccs(yes, no).probability(yes, no))
    torch.testing.assert_close(ccs(9 * yes, 9 * no).probability(9 * yes, 9 * no), ccs(yes, no).probability(yes, no))


# -- sparse ----------------------------------------------------------------------------------------------------------
def test_a_sparse_probe_reads_the_planted_neuron_alone():
    x, labels, _ = planted(100)
    x[:, 7] = torch.where(labels, 5.0, 0.0) + 0.1 * torch.randn(100, generator=torch.Generator().manual_seed(0))
    found = probe(labelled(x, labels), fit=sparse(1), draws=3)
    assert found.vector.nonzero().flatten().tolist() == [7] and found.auroc == 1 and found.fit == "sparse(1)"


def test_neurons_are_chosen_on_the_training_side_alone():
    draw = torch.Generator().manual_seed(0)
    x, labels = torch.randn(80, 3000, generator=draw), torch.arange(80) % 2 == 0
    everywhere = sparse(5)(x, labels)
    assert float((everywhere.scores(x) > 0).eq(labels).double().mean()) > 0.8  # chosen where it is judged: a mirage
    assert abs(probe(labelled(x, labels), fit=sparse(5), draws=2).auroc - 0.5) < 0.2


# -- attention -------------------------------------------------------------------------------------------------------
def test_an_attention_probe_looks_where_the_label_shows():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(160) % 2 == 0
    x = torch.randn(160, 15, 8, generator=draw)
    place = torch.randint(0, 12, (160,), generator=draw)
    rows = torch.arange(160)
    x[rows, place, 0] = 6.0  # the mark
    x[..., 1] *= 2
    x[rows, place, 1] = torch.where(labels, 2.0, -2.0)
    mask = torch.arange(15) < 12
    mask = mask.expand(160, 15)
    fit = pooled(x[:80], mask[:80], labels[:80], C=1.0)
    mean = pooled(x[:80], mask[:80], labels[:80], C=1.0, attend=False)
    right = float(((fit.scores(x[80:], mask[80:]) > 0) == labels[80:]).double().mean())
    plain = float(((mean.scores(x[80:], mask[80:]) > 0) == labels[80:]).double().mean())
    weights = fit.weights(x[80:], mask[80:])
    assert right > 0.95 > plain + 0.1
    assert float((weights.argmax(1) == place[80:]).double().mean()) > 0.9
    assert bool((weights[:, 12:] == 0).all()) and torch.allclose(
        mean.weights(x, mask)[:, :12], torch.tensor(1 / 12.0).double()
    )


# -- what is no signal -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FITS)
def test_what_varies_by_rounding_alone_is_not_read(name):
    """The BOS has the same activation in every prompt up to rounding, which differs between batches."""
    labels = torch.arange(40) < 20
    x = 30 * torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).expand(40, 16).clone()
    x += torch.where(labels, 1e-6, -1e-6)[:, None]  # two batches
    found = FITS[name](x, labels)
    assert float(found.scores(x).std()) < 1e-9


def test_a_constant_coordinate_beside_others_changes_nothing():
    x, labels, _ = planted(60, 6)
    more = torch.cat([x, torch.full((60, 1), 1e4, dtype=x.dtype)], 1)
    for name, fit in FITS.items():
        found = fit(more, labels)
        reader = found.vector if found.reader is None else found.reader
        assert float(reader[-1]) == 0, name


def test_a_probe_beats_its_controls_where_there_is_something_and_says_so_where_there_is_not():
    x, labels, truth = planted(400)
    found = probe(labelled(x, labels))
    assert found.auroc > 0.98 and found.accuracy > 0.93 and "no better" not in found.verdict
    assert abs(float(found.shuffled.mean()) - 0.5) < 0.05
    assert cos(found.direction.vector, truth) > 0.9
    noise = probe(labelled(torch.randn(400, 12, generator=torch.Generator().manual_seed(3)), labels))
    assert abs(noise.auroc - 0.5) < 0.1 and "no better than shuffled labels" in noise.verdict
    read = found.direction.read(x.float())
    assert float(((read > 0) == labels).double().mean()) > 0.93


# -- splits and nulls --------------------------------------------------------------------------------------------------
def test_groups_stay_together_and_both_labels_lie_on_both_sides():
    labels = torch.arange(30) < 20
    groups = torch.arange(30) // 2
    train, test = split(labels, groups, 0.5, 0)
    assert not set(groups[train].tolist()) & set(groups[test].tolist())
    assert labels[test].sum() == 10 and len(test) in (14, 16)


def test_thirds_keep_pairs_together():
    labels = torch.arange(30) < 15  # the i-th with and the i-th without are a pair
    part = thirds(labels)
    assert part is not None and torch.equal(part[:15], part[15:]) and part.bincount().tolist() == [10, 10, 10]
    assert thirds(torch.arange(30) < 2) is None


def test_shuffled_labels_have_the_structure_of_the_true_ones():
    generator = np.random.default_rng(0)
    pairs, texts = torch.arange(40) // 2, torch.arange(40) // 8
    turned = shuffled(torch.arange(40) % 2 == 0, pairs, 5, generator)
    assert bool((turned.unflatten(1, (20, 2)).sum(2) == 1).all())
    dealt = shuffled(torch.arange(40) < 16, texts, 5, generator)
    assert bool((dealt.unflatten(1, (5, 8)).sum(2) % 8 == 0).all()) and bool((dealt.sum(1) == 16).all())
    assert bool((shuffled(torch.arange(40) < 7, None, 5, generator).sum(1) == 7).all())


# -- bad input ---------------------------------------------------------------------------------------------------------
def test_what_cannot_be_probed_is_refused_with_its_reason():
    x, labels, _ = planted(40)
    with pytest.raises(BadInput, match="needs examples of both"):
        probe(labelled(x, torch.ones(40, dtype=torch.bool)))
    with pytest.raises(BadInput, match="39 labels, 40 examples"):
        probe(labelled(x, labels[:-1]))
    broken = x.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(NotFinite, match=r"layers\.1\.resid_post must be finite"):
        probe(labelled(broken, labels))
    with pytest.raises(BadInput, match="no coordinate differs"):
        probe(labelled(torch.ones(40, 5), labels))
    with pytest.raises(BadInput, match="did you mean logistic"):
        probe(labelled(x, labels), fit="logistc")
    with pytest.raises(BadInput, match="5 examples of each label on both sides"):
        probe(labelled(x[:12], labels[:12]))
    with pytest.raises(BadInput, match="cannot read 99 coordinates"):
        probe(labelled(x, labels), fit=sparse(99))
    with pytest.raises(BadInput, match="no groups"):
        probe(labelled(x, labels), fit="pca-of-pairs")
    with pytest.raises(BadInput, match="group 0 with 2 examples with the label"):
        probe(labelled(x, torch.arange(40) % 4 < 2, torch.arange(40) // 2), fit="pca-of-pairs")
    with pytest.raises(BadInput, match="two pairs or more"):
        ccs(x[:1], x[:1])
    with pytest.raises(BadInput, match="all pairs are the same"):
        ccs(torch.ones(9, 3), torch.zeros(9, 3))
