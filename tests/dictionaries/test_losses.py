"""Every loss has the value and the gradients of its formula, written out here on whole matrices with autograd."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dictionaries.zoo import FAMILIES, filled, rows_for
from digsite._core.errors import BadInput
from digsite.dictionaries import Dictionary, JumpReLU, initialise, sae
from digsite.dictionaries.auxiliary import AuxK, GatedAux, Jacobian
from digsite.dictionaries.losses import Clock, Loss, Matryoshka, MultiTopK, Reconstruction, within
from digsite.dictionaries.sparsity import L1, GateL1, L0Step, PreAct, Tanh, TargetL0
from digsite.store import Latents, Rows

IDS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 1])


# -- the formulas, dense -------------------------------------------------------------------------------------------
class Dense:
    """Pre-activations, latents and outputs of a dictionary as whole matrices."""

    def __init__(self, dictionary: Any, rows: Rows):
        self.dictionary, self.rows = dictionary, rows
        self.x = [
            [rows[n] - (dictionary.bias(n) if block.config.centred else 0) for n in block.config.reads]
            for block in dictionary.blocks
        ]
        pairs = list(zip(dictionary.blocks, self.x, strict=True))
        self.pre = [sum(a @ W.T for a, W in zip(x, b.W_enc, strict=True)) + b.b_enc for b, x in pairs]
        self.f = [codes(block, pre) for block, pre in zip(dictionary.blocks, self.pre, strict=True)]

    def written(self, f, frozen=False):
        out = {name: self.dictionary.bias(name).expand(9, -1) for name in self.dictionary.writes}
        if self.dictionary.tokens is not None:
            out = {n: x + self.dictionary.tokens[i][self.rows.ids] for i, (n, x) in enumerate(out.items())}
        for block, codes in zip(self.dictionary.blocks, f, strict=True):
            for t, name in enumerate(block.config.writes):
                raw = self.rows[block.config.reads[0]]
                if block.config.decoder.kind == "transforms":
                    for i, M in enumerate(maps(block, t)):
                        out[name] = out[name] + codes[:, i : i + 1] * (raw @ M.T)
                else:
                    out[name] = out[name] + codes @ block.W_dec(name)
                if block.W_skip is not None:
                    out[name] = out[name] + raw @ block.W_skip[t].T
        return out

    def error(self, made, fvu=False):
        each = {n: (self.rows[n] - x).square().sum() for n, x in made.items()}
        if not fvu:
            return sum(each.values()) / 9
        return sum(e / (self.rows[n] - self.rows[n].mean(0)).square().sum() for n, e in each.items()) / len(each)


def maps(block, target):
    return [U[t] @ V[t] for U, V in zip(block.decoder.U[target], block.decoder.V, strict=True) for t in range(len(V))]


def codes(block, pre):
    a = block.config.activation
    match a.kind:
        case "relu":
            return torch.relu(pre)
        case "topk":
            gate = pre * block.norms() if a.by_norm else pre
            return torch.relu(pre) * (gate >= gate.sort(1, descending=True).values[:, a.k - 1 : a.k])
        case "batchtopk":
            kth = torch.relu(pre).flatten().sort(descending=True).values[a.k * 9 - 1]
            return torch.relu(pre) * (pre >= kth)
        case "jumprelu":
            θ = block.threshold
            window = ((pre - θ).abs() < a.bandwidth / 2).float()
            return pre * (pre > θ) - (θ / a.bandwidth * window).detach() * (θ - θ.detach())
        case "gated":
            return (pre > 0) * torch.relu(block.r_mag.exp() * (pre - block.b_enc) + block.b_mag)
        case "abstopk":
            return pre * (pre.abs() >= pre.abs().sort(1, descending=True).values[:, a.k - 1 : a.k])
        case "groupmax":
            groups = pre.unflatten(1, (a.k, -1))
            return (torch.relu(groups) * (groups == groups.amax(2, keepdim=True))).flatten(1)


def lengths(block, over):
    if block.config.decoder.kind == "transforms":
        each = torch.stack([torch.stack([M.norm() for M in maps(block, t)]) for t in range(len(block.config.writes))])
    else:
        each = torch.stack([block.W_dec(name).norm(dim=1) for name in block.config.writes])
    return [each.square().sum(0).sqrt()] if over == "all" else list(each)


def steps(block, pre):
    window = ((pre - block.threshold).abs() < block.config.activation.bandwidth / 2) / block.config.activation.bandwidth
    return (pre > block.threshold).float() - window * (block.threshold - block.threshold.detach())


# -- value and gradients -------------------------------------------------------------------------------------------
def gradients(dictionary: Dictionary, loss: torch.Tensor):
    parameters = dict(dictionary.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(parameters.items(), grads, strict=True)
    }


def agree(dictionary: Any, loss: Loss, wanted, clock: Clock | None = None):
    """The loss is the number that `wanted` makes of the dense forms, and so are all its gradients."""
    dictionary.train()
    rows = Rows(rows_for(dictionary), ids=IDS)
    found = loss(dictionary, dictionary.run(rows, pre=loss.needs_pre), clock or Clock())
    reference = wanted(Dense(dictionary, rows))
    torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-5)
    ours, theirs = gradients(dictionary, found), gradients(dictionary, reference)
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-5, atol=3e-5, msg=lambda m, name=name: f"{name}: {m}")
    return ours


@pytest.mark.parametrize("fvu", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_reconstruction(name, fvu):
    agree(filled(name), Reconstruction(by_variance=fvu), lambda d: d.error(d.written(d.f), fvu))


@pytest.mark.parametrize("over", ["each", "all"])
@pytest.mark.parametrize("name", FAMILIES)
def test_penalties_on_what_is_written(name, over):
    """For MOLT the length is |U V|, for several columns the sum of lengths or the length of all together."""

    def total(penalty):
        def of(d):
            parts = zip(d.dictionary.blocks, d.f, strict=True)
            return sum(penalty(f.abs() * n).sum() / 9 if "abs" in name else penalty(f * n).sum() / 9
                       for b, f in parts for n in lengths(b, over))  # fmt: skip

        return of

    agree(filled(name), L1(over=over), total(lambda x: x))
    agree(filled(name), Tanh(c=0.7, over=over), total(lambda x: torch.tanh(0.7 * x)))


def test_penalties_of_layers_and_of_shared_latents():
    factors = (1.0, 0.5, 0.0)

    def by_layer(d):
        parts = zip(factors, d.dictionary.blocks, d.f, strict=True)
        return sum(w * torch.tanh(f * lengths(b, "all")[0]).sum() / 9 for w, b, f in parts)

    agree(filled("clt"), Tanh(c=1.0, blocks=factors), by_layer)
    factor = torch.tensor([0.1] * 4 + [1.0] * 8)
    agree(
        filled("shared crosscoder"),
        L1(shared=0.1),
        lambda d: sum((d.f[0] * n * factor).sum() / 9 for n in lengths(d.dictionary.blocks[0], "each")),
    )


@pytest.mark.parametrize("name", ["jumprelu", "clt low rank"])
def test_thresholds_feel_the_step_on_both_sides(name):
    """A step of the latents instead of the pre-activations would have a window above the threshold only."""

    def count(d):
        return sum(steps(b, p).sum() / 9 for b, p in zip(d.dictionary.blocks, d.pre, strict=True))

    found = agree(filled(name), L0Step(), count)
    assert all(bool(g.any()) == where.endswith("threshold") for where, g in found.items())
    agree(filled(name), TargetL0(l0=2.0), lambda d: (count(d) / 2 - 1) ** 2)
    below = sae({"embed": 1}, 1, JumpReLU(start=1.0, bandwidth=1.0))
    initialise(below, seed=0)
    below.train()
    rows = {"embed": below.blocks[0].W_dec("embed").detach() * 0.8}  # below the threshold, inside the window
    L0Step()(below, below.run(rows), Clock()).backward()
    assert below.blocks[0].own("threshold").grad == pytest.approx(-1.0)


@pytest.mark.parametrize("name", ["jumprelu", "clt low rank"])
def test_pre_activations_below_their_threshold_are_pulled_up(name):
    """Computed from latents, which are zero there, no gradient would reach the encoder."""
    found = agree(
        filled(name),
        PreAct(),
        lambda d: sum(
            (torch.relu(b.threshold - p) * lengths(b, "all")[0]).sum() / 9
            for b, p in zip(d.dictionary.blocks, d.pre, strict=True)
        ),
    )
    assert found["blocks.0.W_enc.0"].any() and found["blocks.0.threshold"].any()


def test_the_gates_of_a_gated_dictionary():
    agree(
        filled("gated"),
        GateL1(),
        lambda d: (torch.relu(d.pre[0]) * lengths(d.dictionary.blocks[0], "all")[0]).sum() / 9,
    )

    def frozen(d):
        block = d.dictionary.blocks[0]
        bias = d.dictionary.b_dec[0].detach()
        made = torch.relu(d.pre[0]) @ block.decoder.W[0].detach() + bias
        return (d.rows[block.config.writes[0]] - made).square().sum() / 9

    found = agree(filled("gated"), GatedAux(), frozen)
    assert not found["blocks.0.decoder.W.0"].any(), "the decoder feels nothing of it"


@pytest.mark.parametrize("fvu", [False, True])
def test_nested_dictionaries(fvu):
    def nested(d):
        prefixes = [torch.arange(12) < size for size in (3, 6, 12)]
        return sum(d.error(d.written([d.f[0] * prefix]), fvu) for prefix in prefixes)

    agree(filled("matryoshka"), Matryoshka(by_variance=fvu), nested)
    tokenized = filled("tokenized")
    config = replace(tokenized.config, blocks=(replace(tokenized.config.blocks[0], prefixes=(3, 6, 12)),))
    again = Dictionary(config)
    again.load_state_dict(tokenized.state_dict())
    agree(again, Matryoshka(by_variance=fvu), nested)


@pytest.mark.parametrize("name", ["topk", "topk by norm", "transcoder", "clt", "skip transcoder", "shared crosscoder"])
def test_more_latents_than_k(name):
    """The gradient reaches the encoder: a fused encoder that drops it gives exactly zero there."""

    def wider(d):
        more = [codes_of(b, p, 6) for b, p in zip(d.dictionary.blocks, d.pre, strict=True)]
        return d.error(d.written(more), fvu=True)

    def codes_of(block, pre, k):
        gate = pre * block.norms() if block.config.activation.by_norm else pre
        return torch.relu(pre) * (gate >= gate.sort(1, descending=True).values[:, k - 1 : k])

    found = agree(filled(name), MultiTopK(factor=2), wider)
    assert found["blocks.0.W_enc.0"].any()


AUX = [
    "topk",
    "batchtopk",
    "transcoder",
    "skip transcoder",
    "clt",
    "shared crosscoder",
    "crosscoder",
    "jumprelu",
    "molt",
]


@pytest.mark.parametrize("name", AUX)
def test_dead_latents_learn_what_is_left(name):
    """Neither is the residual moved, nor a bias written, nor an encoder left out; living latents feel nothing."""
    dictionary = filled(name)
    count = dictionary.config.blocks[0].latents
    dead = [torch.arange(count)[b % 2 :: 2] for b in range(len(dictionary.blocks))]

    def auxiliary(d):
        left = {n: (d.rows[n] - x).detach() for n, x in d.written(d.f).items()}
        chosen = []
        for pre, few in zip(d.pre, dead, strict=True):
            kth = pre[:, few].sort(1, descending=True).values[:, 1:2]
            among = torch.zeros(count, dtype=torch.bool).index_fill(0, few, True)
            chosen.append(torch.relu(pre) * (pre >= kth) * among)
        none = d.written([torch.zeros_like(f) for f in chosen])
        made = {n: x - none[n] for n, x in d.written(chosen).items()}
        spread = {n: (d.rows[n] - d.rows[n].mean(0)).square().sum() for n in left}
        return sum((left[n] - made[n]).square().sum() / spread[n] for n in left) / len(left)

    found = agree(dictionary, AuxK(k=2), auxiliary, Clock(dead=dead))
    encoder = found["blocks.0.W_enc.0"]
    assert encoder[dead[0]].any() and not encoder[1::2].any()
    if dictionary.b_dec[0].shape[0] == 5:
        assert not found["b_dec.0"].any()


def test_without_dead_latents_there_is_nothing_to_revive():
    dictionary = filled("topk")
    passed = dictionary.run(rows_for(dictionary))
    assert AuxK()(dictionary, passed, Clock(dead=[torch.arange(0)])) == 0


def test_the_jacobian_of_a_pair_is_that_of_the_part_between():
    pair: Any = filled("jacobian pair")
    hidden = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 5))
    pair.config = replace(
        pair.config, columns={n: replace(c, scale=2.0 + i) for i, (n, c) in enumerate(pair.config.columns.items())}
    )
    rows = rows_for(pair)
    before, _ = pair.writes

    def dense():
        passed = pair.run(rows)
        middle, total = passed.outputs[before], torch.zeros(())
        for row in range(9):
            J = torch.autograd.functional.jacobian(lambda x: hidden(x * 2) / 3, middle[row], create_graph=True)
            block = pair.blocks[1].W_enc[0][passed.latents[1].indices[row]] @ J
            total = total + (block @ pair.blocks[0].W_dec(before)[passed.latents[0].indices[row]].T).abs().sum()
        return total / 9 / 3**2

    found, wanted = Jacobian(part=hidden)(pair, pair.run(rows), Clock()), dense()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    ours, theirs = gradients(pair, found), gradients(pair, wanted)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    assert "0x" not in repr(Jacobian(part=lambda x: x)), "a training that goes on compares recipes by what they print"
    with pytest.raises(BadInput, match="pair of dictionaries"):
        Jacobian(part=hidden)(filled("topk"), filled("topk").run(rows_for(filled("topk"))), Clock())


def test_the_entries_of_some_latents_only():
    rectangle = Latents(torch.rand(4, 3), torch.tensor([[0, 5, 2], [1, 2, 3], [4, 5, 0], [5, 1, 3]]), 6)
    for latents in (rectangle, Latents.of(rectangle.dense())):
        some = within(latents, 2, 4)
        wanted = latents.dense()
        wanted[:, :2], wanted[:, 4:] = 0, 0
        torch.testing.assert_close(some.dense(), wanted)
        assert some.entries == 4


def test_coefficients_mean_the_same_at_any_batch():
    dictionary = filled("jumprelu").train()
    rows = rows_for(dictionary)
    twice = {name: torch.cat([x, x]) for name, x in rows.items()}
    for loss in (
        Reconstruction(),
        Reconstruction(by_variance=True),
        L1(),
        Tanh(),
        L0Step(),
        TargetL0(l0=3.0),
        PreAct(),
    ):
        once = loss(dictionary, dictionary.run(rows, pre=True), Clock())
        torch.testing.assert_close(loss(dictionary, dictionary.run(twice, pre=True), Clock()), once)
