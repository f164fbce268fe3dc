"""Probes read what is there to be read, and nothing where nothing is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import digsite
from digsite._core.errors import BadInput
from digsite._core.ranking import auroc
from digsite.dictionaries import Relu, clt, sae
from digsite.dictionaries.probing import SparseProbing, sparse_probing
from digsite.directions import Labelled, task_rows
from digsite.store import Rows

SITE = "layers.0.resid_post"


def planted(n=400, *, noise=1.0, seed=0):
    """Latent 3 fires exactly where the label is yes; in the activation it lies oblique to the coordinates."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2 == 0
    directions = torch.linalg.qr(torch.randn(20, 20, generator=drawn))[0]
    strength = torch.rand(n, 20, generator=drawn) * noise
    strength[:, 3] = torch.where(labels, 1.0, 0.0)
    return directions, Labelled(name="planted", rows=Rows({SITE: strength @ directions}), labels=labels)


@torch.no_grad()
def reader(directions):
    new: Any = sae({SITE: 20}, 20, Relu())
    new.blocks[0].W_enc[0].copy_(directions)
    new.blocks[0].decoder.W[0].copy_(directions)
    return new.eval()


def rows_of(result):
    return {row["probe"]: row for row in result.to_frame().to_dicts()}


def test_one_latent_reads_what_one_neuron_cannot():
    directions, labelled = planted()
    result = sparse_probing(reader(directions), labelled, ks=(1, 5))
    rows = rows_of(result)
    assert result.chosen[0] == (3,)
    assert rows["1 latent"]["auroc"] == 1 and rows["1 latent"]["accuracy"] == 1
    assert rows["1 neuron"]["auroc"] < 0.9 and rows["dense probe"]["auroc"] > 0.99
    assert rows["1 latent"]["null_max"] < 0.75 and abs(rows["5 latents"]["null_mean"] - 0.5) < 0.12
    assert "read from 1 latent with an AUROC of 1.00" in result.verdict


def test_a_dense_probe_that_is_as_good_is_said_so():
    directions, labelled = planted(noise=0.01)
    result = sparse_probing(reader(directions), labelled, ks=(1,))
    assert "no better than dense probe" in result.verdict


def test_labels_that_say_nothing_are_not_read():
    directions, labelled = planted()
    mixed = labelled.labels[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    result = sparse_probing(reader(directions), replace(labelled, labels=mixed), ks=(1, 5))
    assert all(abs(row["auroc"] - 0.5) < 0.15 for row in rows_of(result).values())
    assert "no better than" in result.verdict and "shuffled labels" in result.verdict


def test_examples_of_another_kind_are_read_by_the_same_probes():
    directions, labelled = planted()
    _, other = planted(n=60, seed=0)
    turned = replace(other, labels=~other.labels)
    result = sparse_probing(reader(directions), labelled, ks=(1,), elsewhere=turned, draws=2)
    assert rows_of(result)["1 latent"]["elsewhere"] == 0
    assert "on other examples 0.00" in result.verdict


def test_latents_of_all_blocks_may_be_chosen():
    directions, labelled = planted()
    reads = {SITE: 20, "layers.1.resid_post": 20}
    new: Any = clt(reads, {"layers.0.mlp.out": 4, "layers.1.mlp.out": 4}, 20, Relu())
    with torch.no_grad():
        new.blocks[1].W_enc[0].copy_(directions)
    rows = Rows({SITE: torch.zeros(400, 20), "layers.1.resid_post": labelled.rows[SITE]})
    result = sparse_probing(new.eval(), replace(labelled, rows=rows), ks=(1,), draws=1)
    assert result.chosen[0] == (23,) and rows_of(result)["1 latent"]["auroc"] == 1


def test_auroc_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    scores, labels = generator.integers(0, 9, 50).astype(float), generator.random(50) < 0.4
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_pairs_of_a_task_lie_on_one_side():
    model = digsite.load("digsite/tinyworld")
    task = digsite.tasks.ioi(model, n=40)
    labelled = task_rows(model, task, ["layers.3.resid_post"])
    assert labelled.rows["layers.3.resid_post"].shape == (80, 128)
    assert task.corrupt is not None
    run = model.run(task.corrupt, read=["layers.3.resid_post"], at=-1)
    torch.testing.assert_close(labelled.rows["layers.3.resid_post"][40:], run["layers.3.resid_post"].flatten(1))
    new: Any = sae({"layers.3.resid_post": 128}, 256, Relu())
    with torch.no_grad():
        new.blocks[0].W_enc[0].copy_(torch.cat([torch.eye(128), -torch.eye(128)]))
    result = sparse_probing(new.eval(), labelled, ks=(1,), draws=2)
    assert len(result.labels) == 40 and int(result.labels.sum()) == 20


def test_it_comes_back_from_a_folder(tmp_path):
    directions, labelled = planted(n=100)
    result = sparse_probing(reader(directions), labelled, ks=(1,), draws=2)
    assert SparseProbing.load(result.save(tmp_path / "probed")).verdict == result.verdict


def test_what_cannot_be_probed_is_refused():
    directions, labelled = planted(n=100)
    with pytest.raises(BadInput, match=r"16 examples with the label[\s\S]*Found: 100 with the label, 0 without"):
        sparse_probing(reader(directions), replace(labelled, labels=torch.ones(100, dtype=torch.bool)))
    with pytest.raises(BadInput, match=r"Every row has a label[\s\S]*Found: 90 labels, 100 rows"):
        sparse_probing(reader(directions), replace(labelled, labels=labelled.labels[:90]))
    with pytest.raises(BadInput, match=r"ks=\(1, 21\)[\s\S]*Possible: 1 to 20"):
        sparse_probing(reader(directions), labelled, ks=(1, 21))
