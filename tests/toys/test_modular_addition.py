"""Modular addition: waves are found where they were put, and a network that knows nothing is refused."""

import math

import pytest
import torch

from digsite._core.errors import ContractBroken
from digsite.models import load
from digsite.toys.trained import modular_addition as module
from digsite.toys.trained.modular_addition import EQUALS, FREQUENCIES, TOY, P, pairs
from digsite.toys.training import train

SUMS = pairs()[:, :2].sum(1)


def logits_of(frequencies, *, size=10.0):
    """Logits that are nothing but the waves of an answer, as a grokked network has them; `=` has logit zero."""
    apart = (SUMS[:, None] - torch.arange(P)).double()
    made = torch.zeros(P * P, P + 1, dtype=torch.float64)
    made[:, :P] = size * sum(torch.cos(2 * math.pi * k * apart / P) for k in frequencies)
    return made


def test_the_rows_are_all_pairs_and_a_part_of_them_is_held_out():
    ids = pairs()
    assert ids.shape == (P * P, 3) and len(ids.unique(dim=0)) == P * P
    assert set(ids[:, 2].tolist()) == {EQUALS}
    on = module.trained_on(0)
    assert torch.equal(on, module.trained_on(0)) and not torch.equal(on, module.trained_on(1))
    assert 0.3 <= float(on.float().mean()) <= 0.4


def test_waves_are_found_where_they_were_put():
    logits = logits_of([3, 17])
    shares = module.answer_waves(logits)
    assert shares.sum().item() == pytest.approx(1.0)
    assert shares[[2, 16]].tolist() == pytest.approx([0.5, 0.5])
    assert module.key_frequencies(logits) == [3, 17]
    everywhere = torch.ones(P * P, dtype=torch.bool)
    assert module.answered(logits, everywhere) == 1.0
    # With two frequencies the neighbours of the answer are nearly as high, so the loss is not zero.
    assert module.restricted_loss(logits, [3, 17]) == pytest.approx(float(module.loss_of(logits, pairs())))
    assert module.restricted_loss(logits, [4]) == pytest.approx(math.log(P + 1))
    assert module.excluded_loss(logits, [3, 17], everywhere) == pytest.approx(math.log(P + 1))
    assert module.excluded_loss(logits, [4], everywhere) == pytest.approx(module.restricted_loss(logits, [3, 17]))


def test_noise_has_no_key_frequencies():
    noise = torch.randn(P * P, P + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert module.key_frequencies(noise) == []


def test_waves_in_the_sum_are_a_projection():
    logits = torch.randn(P * P, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angles = [2 * math.pi * k * SUMS.double() / P for k in (2, 5)]
    basis = torch.stack([wave for angle in angles for wave in (angle.cos(), angle.sin())], dim=1)
    known = basis @ torch.linalg.lstsq(basis, logits).solution
    assert torch.allclose(module.sum_waves(logits, [2, 5]), known, atol=1e-5)


def test_an_embedding_keeps_the_frequencies_that_were_asked_for():
    numbers = torch.arange(P)
    table = torch.randn(P + 1, 6, generator=torch.Generator().manual_seed(0))
    kept = module.keep_frequencies(table, [4, 9])
    assert torch.equal(kept[P:], table[P:])
    known = table[:P].mean(0).expand(P, -1).clone()
    for k in (4, 9):
        for wave in module.waves(k, numbers):
            known += torch.outer(wave, wave @ table[:P]) / (wave @ wave)
    assert torch.allclose(kept[:P], known, atol=1e-5)
    assert torch.allclose(module.keep_frequencies(table, list(range(1, FREQUENCIES + 1))), table, atol=1e-5)
    power = module.spectrum(module.keep_frequencies(table, [4]))
    assert power[3].item() == pytest.approx(1.0, abs=1e-5) and power.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_an_edited_embedding_is_what_the_model_reads():
    torch.manual_seed(0)
    network = module.network().eval()
    model = load(network)
    every = list(range(1, FREQUENCIES + 1))
    assert torch.allclose(module.with_frequencies(model, every), module.all_logits(network), atol=1e-4)
    table = module.keep_frequencies(network.transformer.wte.weight.detach(), [7])
    edited = module.with_frequencies(model, [7])
    network.transformer.wte.weight.data.copy_(table)
    assert torch.allclose(edited, module.all_logits(network), atol=1e-4)


def test_the_same_seed_gives_the_same_weights(tmp_path):
    def weights(seed, folder):
        return train(TOY.recipe(seed, 3), tmp_path / folder).network.state_dict()

    one, same, other = weights(0, "one"), weights(0, "same"), weights(1, "other")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["transformer.wte.weight"], other["transformer.wte.weight"])


def test_a_network_that_knows_nothing_is_refused(tmp_path):
    with pytest.raises(ContractBroken, match=r"(?s)modular-addition is not what it should be.*held-out pairs answered"):
        TOY.make(tmp_path / "toy", steps=2)
    assert not (tmp_path / "toy").exists()


def test_progress_has_a_number_for_each_checkpoint(tmp_path):
    trained = train(TOY.recipe(0, 3), tmp_path)
    on = module.trained_on(0)
    series = module.progress(trained, [1], on)
    assert series["steps"] == [1, 2, 3]
    logits = module.all_logits(trained.network)
    assert series["held-out answered"][-1] == module.answered(logits, ~on)
    assert series["trained loss"][-1] == pytest.approx(float(module.loss_of(logits[on], pairs()[on])))
    assert series["trained loss"][-1] < series["trained loss"][0]
