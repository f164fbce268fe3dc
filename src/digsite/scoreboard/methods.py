"""The methods that stand on the scoreboard, and the baselines that each of them must beat.

A method is a function of a model whose circuit is known, its task and a seed that scores nodes ("layers.0.attn.z[1]",
"layers.0.mlp.out") or edges ((writer, reader), see `toys.known`): the larger the score in size, the surer the
method that it belongs to the circuit. It looks at the model and its task, never at the declared circuit.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from digsite.circuits import (
    Cutter,
    EdgeScores,
    NodeScores,
    acdc,
    atp_star,
    eap,
    eap_ig,
    information_flow,
    mask_training,
    nap,
    path_patching,
    relp,
)
from digsite.circuits.masks import levelled
from digsite.graphs import EdgeSpace
from digsite.models import Model
from digsite.patching import activation_patching, components, direct_attribution, evaluate_sets
from digsite.tasks import Task
from digsite.toys.known import Known

Scores = Mapping[Any, float]
THRESHOLDS = (1e-5, 1e-3, 1e-1)
"""Of ACDC, in nats: each gives a circuit, and an edge is the surer the more of them have it."""
OPEN, STEPS = 0.2, 50
"""Of trained masks: the share of gates that is to be open, and the steps of training. In so few steps no gate is shut
to a hundredth of the most open one, so nothing counts as missed."""


class Method(NamedTuple):
    """One line of the scoreboard.

    Attributes:
        name: Its name.
        kind: "node" or "edge".
        score: From a toy, its task and a seed to a score for every node or edge.
        baseline: It knows nothing of the task.
    """

    name: str
    kind: str
    score: Callable[[Known, Task, int], Scores]
    baseline: bool = False


def random_nodes(toy: Known, task: Task, seed: int) -> Scores:
    """Chance."""
    names = components(toy.model)
    return dict(zip(names, np.random.default_rng(seed).random(len(names)).tolist(), strict=True))


def random_edges(toy: Known, task: Task, seed: int) -> Scores:
    """Chance."""
    return dict(zip(toy.all_edges, np.random.default_rng(seed).random(len(toy.all_edges)).tolist(), strict=True))


def weight_norm(toy: Known, task: Task, seed: int) -> Scores:
    """The size of what a component could write: the norm of W_V W_O of a head, of W_in W_out of an MLP."""
    weights = toy.model.weights
    found = {}
    for name in components(toy.model):
        layer, head = _parts(name)
        if head is None:
            made = weights.W_in[layer] @ weights.W_out[layer]
        else:
            made = weights.W_V[layer][head] @ weights.W_O[layer][head]
        found[name] = float(made.norm())
    return found


def activation_norm(toy: Known, task: Task, seed: int) -> Scores:
    """The size of what a component does write: its mean norm over the clean prompts."""
    model = toy.model
    run = model.run(task.clean, read=["layers.*.attn.result", "layers.*.mlp.out"], logits=None)
    found = {}
    for name in components(model):
        layer, head = _parts(name)
        site = f"layers.{layer}.mlp.out" if head is None else f"layers.{layer}.attn.result[{head}]"
        found[name] = float(run[site].norm(dim=-1)[task.clean.mask].mean())
    return found


def direct(toy: Known, task: Task, seed: int) -> Scores:
    """Direct attribution: what a component writes towards the answer."""
    frame = direct_attribution(toy.model, task).to_frame()
    known = set(components(toy.model))
    return {name: effect for name, effect in frame.select("component", "effect").iter_rows() if name in known}


def denoise(toy: Known, task: Task, seed: int) -> Scores:
    """Activation patching, clean into corrupt."""
    return _patched(toy.model, task, "denoise", seed)


def noise(toy: Known, task: Task, seed: int) -> Scores:
    """Activation patching, corrupt into clean."""
    return _patched(toy.model, task, "noise", seed)


def knock_out_zero(toy: Known, task: Task, seed: int) -> Scores:
    """What is lost when a component is replaced by zero."""
    return _knocked_out(toy.model, task, "zero", seed)


def knock_out_mean(toy: Known, task: Task, seed: int) -> Scores:
    """What is lost when a component is replaced by its mean over the corrupt prompts."""
    return _knocked_out(toy.model, task, "mean", seed)


def cut_edges(toy: Known, task: Task, seed: int) -> Scores:
    """Every edge cut by itself on the program's inputs: what the truth is checked by, and therefore the ceiling."""
    return dict(zip(toy.all_edges, toy.cut(toy.all_edges, seed=seed).tolist(), strict=True))


def patch_edges(toy: Known, task: Task, seed: int) -> Scores:
    """Exact edge patching: the drop of the metric when one edge alone carries its corrupt value."""
    return _one_by_one(toy, task, "corrupt")


def zero_edges(toy: Known, task: Task, seed: int) -> Scores:
    """The drop of the metric when one edge alone is cut to zero."""
    return _one_by_one(toy, task, "zero")


def acdc_zero(toy: Known, task: Task, seed: int) -> Scores:
    """ACDC with zero ablation: at how many of several thresholds it keeps an edge."""
    return _acdc(toy, task, "zero")


def acdc_corrupt(toy: Known, task: Task, seed: int) -> Scores:
    """ACDC with corrupt values: at how many of several thresholds it keeps an edge."""
    return _acdc(toy, task, "corrupt")


def mask_edges(toy: Known, task: Task, seed: int) -> Scores:
    """Trained masks over edges: how far an edge's gate is open in the end."""
    found = mask_training(toy.model, task, OPEN, over="edges", steps=STEPS, random_circuits=1, seed=seed)
    space = found.circuit.space
    learnt = found.circuit.scores.masked_fill(~space.real, 0.0)
    gates = torch.zeros_like(learnt).masked_scatter(space.real, _opened(learnt[space.real], found.wanted))
    return _of(toy, space, gates)


def mask_nodes(toy: Known, task: Task, seed: int) -> Scores:
    """Trained masks over heads and MLPs: how far a node's gate is open in the end."""
    found = mask_training(toy.model, task, OPEN, over="nodes", steps=STEPS, random_circuits=1, seed=seed)
    writers = [name for name in found.circuit.writers if name.startswith("layers.")]
    learnt = torch.stack([found.circuit.scores[found.circuit.writers.index(name), -1] for name in writers])
    return _of_components(writers, _opened(learnt, found.wanted))


def _opened(learnt: Tensor, wanted: Tensor) -> Tensor:
    """How far gates are open when as many as wanted are expected to be."""
    return torch.sigmoid(levelled(learnt, float(wanted[-1])))


def _of_components(writers: Sequence[str], scores: Tensor) -> Scores:
    """Scores of writers, heads named as components name them."""
    names = [name.replace("attn.result", "attn.z") for name in writers]
    return dict(zip(names, scores.tolist(), strict=True))


def _paths(through: str) -> Callable[[Known, Task, int], Scores]:
    """What a component tells the logits."""

    def score(toy: Known, task: Task, seed: int) -> Scores:
        senders = ["layers.*.attn.result[*]", "layers.*.mlp.out"]
        found = path_patching(toy.model, task, senders, through=through, seed=seed)
        return _of_components(found.senders, found.share(found.patched).mean(1))

    return score


def _nodes(method: Callable[[Model, Task], NodeScores]) -> Callable[[Known, Task, int], Scores]:
    """A head scores what the strongest of its query, key, value and output does."""

    def score(toy: Known, task: Task, seed: int) -> Scores:
        found, model = method(toy.model, task), toy.model
        sizes = dict(zip(found.nodes, found.scores.mean(0).abs().tolist(), strict=True))
        scores = {}
        for name in components(model):
            layer, head = _parts(name)
            if head is None:
                scores[name] = sizes[name]
            else:
                shared = head * model.n_kv_heads // model.n_heads
                places = {"q": head, "k": shared, "v": shared, "result": head}
                scores[name] = max(sizes[f"layers.{layer}.attn.{part}[{at}]"] for part, at in places.items())
        return scores

    return score


def _attributed(method: Callable[..., EdgeScores]) -> Callable[[Known, Task, int], Scores]:
    def score(toy: Known, task: Task, seed: int) -> Scores:
        found = method(toy.model, task)
        return _of(toy, found.space, found.mean())

    return score


def _of(toy: Known, space: EdgeSpace, scores: Tensor) -> Scores:
    return {edge: float(scores[space.index(edge)]) for edge in toy.all_edges}


def _one_by_one(toy: Known, task: Task, how: str) -> Scores:
    cutter = Cutter(toy.model, task, how=how)
    space = cutter.space
    single = space.real.repeat(len(toy.all_edges), 1, 1)
    for i, edge in enumerate(toy.all_edges):
        single[(i, *space.index(edge))] = False
    drops = (cutter.clean - cutter(single)).abs().mean(1)
    return dict(zip(toy.all_edges, drops.tolist(), strict=True))


def _acdc(toy: Known, task: Task, how: str) -> Scores:
    kept = [acdc(toy.model, task, threshold, how=how) for threshold in THRESHOLDS]
    return _of(toy, kept[0].space, torch.stack([one.kept for one in kept]).float().sum(0))


def _patched(model: Model, task: Task, direction: str, seed: int) -> Scores:
    sites = ["layers.*.attn.z[*]", "layers.*.mlp.out"]
    result = activation_patching(model, task, sites, direction=direction, seed=seed)
    return dict(zip(result.sites, result.effects.mean(1).tolist(), strict=True))


def _knocked_out(model: Model, task: Task, how: str, seed: int) -> Scores:
    names = components(model)
    single = torch.cat([torch.zeros(1, len(names), dtype=torch.bool), torch.eye(len(names), dtype=torch.bool)])
    values = evaluate_sets(model, task, single, how=how, seed=seed)
    return dict(zip(names, (values[0] - values[1:]).mean(1).tolist(), strict=True))


def _parts(name: str) -> tuple[int, int | None]:
    layer = int(name.split(".")[1])
    return layer, int(name.partition("[")[2][:-1]) if "[" in name else None


METHODS = {
    method.name: method
    for method in (
        Method("random", "node", random_nodes, baseline=True),
        Method("weight norm", "node", weight_norm, baseline=True),
        Method("activation norm", "node", activation_norm, baseline=True),
        Method("direct attribution", "node", direct),
        Method("patching (denoise)", "node", denoise),
        Method("patching (noise)", "node", noise),
        Method("knock-out (zero)", "node", knock_out_zero),
        Method("knock-out (mean)", "node", knock_out_mean),
        Method("path patching (direct)", "node", _paths("direct")),
        Method("path patching (MLPs)", "node", _paths("mlps")),
        Method("NAP", "node", _nodes(nap)),
        Method("AtP + QK fix", "node", _nodes(partial(atp_star, grad_drop=False))),
        Method("AtP + GradDrop", "node", _nodes(partial(atp_star, qk_fix=False))),
        Method("AtP*", "node", _nodes(atp_star)),
        Method("mask training (nodes)", "node", mask_nodes),
        Method("random edges", "edge", random_edges, baseline=True),
        Method("EAP", "edge", _attributed(eap)),
        Method("EAP-IG inputs", "edge", _attributed(eap_ig)),
        Method("RelP", "edge", _attributed(relp)),
        Method("information flow", "edge", _attributed(information_flow)),
        Method("mask training (edges)", "edge", mask_edges),
        Method("edge patching", "edge", patch_edges),
        Method("edge zeroing", "edge", zero_edges),
        Method("ACDC (corrupt)", "edge", acdc_corrupt),
        Method("ACDC (zero)", "edge", acdc_zero),
        Method("cutting every edge", "edge", cut_edges),
    )
}
"""Every method on the board, by name."""
