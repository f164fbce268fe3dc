"""The calls whose cost is counted, with the defaults of each method unless it says otherwise."""

from typing import Any

import torch
from benchmarks.catalogue.costs import FEW, Call, Case

import digsite
from digsite import circuits, dictionaries, heads, lenses
from digsite.graphs import edge_space
from digsite.store import LiveSource
from digsite.tasks import Corpus

SITE = "layers.1.resid_post"
TEXT = "When Mary and John went to the store, John gave a drink to Mary."


def nothing(case: Case) -> None:
    """Nothing has to be made ready."""


def scored(case: Case) -> circuits.EdgeScores:
    """Scores of every edge."""
    return circuits.eap(case.model, case.task)


def found(case: Case) -> digsite.Circuit:
    """A tenth of the edges."""
    return scored(case).circuit(0.1)


def corpus(case: Case) -> Corpus:
    """A row of text for each example."""
    return Corpus.of([TEXT] * case.n, case.model, length=16, packed=False)


def empty(case: Case) -> Any:
    """A dictionary as it is before training."""
    return dictionaries.sae({SITE: case.model.d_model}, 64)


def dictionary(case: Case) -> Any:
    """A dictionary of random numbers."""
    made = empty(case)
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(0))
    return made


def vectors(case: Case) -> torch.Tensor:
    """A vector for each example."""
    return torch.randn(case.n, case.model.d_model, generator=torch.Generator().manual_seed(0))


def kept(case: Case) -> torch.Tensor:
    """Four circuits."""
    space = edge_space(case.model)
    return space.real & (torch.rand(4, *space.real.shape, generator=torch.Generator().manual_seed(0)) < 0.5)


CALLS = {
    "patching.activation_patching": Call(
        "activation_patching(model, task, 'layers.*.attn.z[*]')",
        nothing,
        lambda case, _: digsite.activation_patching(case.model, case.task, "layers.*.attn.z[*]"),
    ),
    "patching.direct_attribution": Call(
        "direct_attribution(model, task)", nothing, lambda case, _: digsite.direct_attribution(case.model, case.task)
    ),
    "patching.ablation": Call(
        "ablation(model, task, names)",
        nothing,
        lambda case, _: digsite.ablation(case.model, case.task, ("layers.0.attn.z[0]",)),
    ),
    "lenses.logit_lens": Call(
        "logit_lens(model, task)", nothing, lambda case, _: digsite.logit_lens(case.model, case.task)
    ),
    "lenses.head_lens": Call(
        "head_lens(model, task)", nothing, lambda case, _: lenses.head_lens(case.model, case.task)
    ),
    "lenses.neuron_lens": Call(
        "neuron_lens(model, task, [(1, 5)])",
        nothing,
        lambda case, _: lenses.neuron_lens(case.model, case.task, [(1, 5)]),
    ),
    "lenses.neuron_inputs": Call(
        "neuron_inputs(model, [(1, 5)])", nothing, lambda case, _: lenses.neuron_inputs(case.model, [(1, 5)])
    ),
    "lenses.neuron_outputs": Call(
        "neuron_outputs(model, [(1, 5)])", nothing, lambda case, _: lenses.neuron_outputs(case.model, [(1, 5)])
    ),
    "lenses.ov_table": Call(
        "ov_table(model, [(1, 0)])", nothing, lambda case, _: lenses.ov_table(case.model, [(1, 0)])
    ),
    "lenses.qk_table": Call(
        "qk_table(model, [(1, 0)], distance=1)",
        nothing,
        lambda case, _: lenses.qk_table(case.model, [(1, 0)], distance=1, tokens=range(64)),
    ),
    "lenses.patchscope": Call(
        "patchscope(model, vectors, site=site)", vectors, lambda case, v: lenses.patchscope(case.model, v, site=SITE)
    ),
    "heads.head_scores": Call(
        "head_scores(model, rows=n)", nothing, lambda case, _: heads.head_scores(case.model, rows=case.n)
    ),
    "heads.confirm_heads": Call(
        "confirm_heads(model, [head], rows=n)",
        nothing,
        lambda case, _: heads.confirm_heads(case.model, [(1, 0)], rows=case.n),
    ),
    "circuits.eap": Call("eap(model, task)", nothing, lambda case, _: circuits.eap(case.model, case.task)),
    "circuits.eap_ig": Call(
        "eap_ig(model, task, steps=5)", nothing, lambda case, _: circuits.eap_ig(case.model, case.task)
    ),
    "circuits.relp": Call("relp(model, task)", nothing, lambda case, _: circuits.relp(case.model, case.task)),
    "circuits.nap": Call("nap(model, task)", nothing, lambda case, _: circuits.nap(case.model, case.task)),
    "circuits.atp_star": Call(
        "atp_star(model, task)", nothing, lambda case, _: circuits.atp_star(case.model, case.task)
    ),
    "circuits.information_flow": Call(
        "information_flow(model, task)", nothing, lambda case, _: circuits.information_flow(case.model, case.task)
    ),
    "circuits.path_patching": Call(
        "path_patching(model, task)", nothing, lambda case, _: circuits.path_patching(case.model, case.task)
    ),
    "circuits.mask_training": Call(
        "mask_training(model, task, 0.2, steps=10)",
        nothing,
        lambda case, _: circuits.mask_training(case.model, case.task, 0.2, steps=10),
    ),
    "circuits.acdc": Call(
        "acdc(model, task, 0.01)", nothing, lambda case, _: circuits.acdc(case.model, case.task, 0.01), FEW
    ),
    "circuits.minimise_circuit": Call(
        "minimise_circuit(model, task, circuit)",
        found,
        lambda case, one: circuits.minimise_circuit(case.model, case.task, one),
        FEW,
    ),
    "circuits.evaluate_circuit": Call(
        "evaluate_circuit(model, task, four_circuits)",
        kept,
        lambda case, some: circuits.evaluate_circuit(case.model, case.task, some),
    ),
    "circuits.faithfulness": Call(
        "faithfulness(model, task, scores)",
        scored,
        lambda case, scores: circuits.faithfulness(case.model, case.task, scores),
        FEW,
    ),
    "circuits.judge_circuit": Call(
        "judge_circuit(model, task, circuit)",
        found,
        lambda case, one: circuits.judge_circuit(case.model, case.task, one),
        FEW,
    ),
    "circuits.node_roles": Call(
        "node_roles(model, task, scores)",
        scored,
        lambda case, scores: circuits.node_roles(case.model, case.task, scores),
    ),
    "circuits.compare_circuits": Call(
        "compare_circuits([one, other])",
        lambda case: [found(case), scored(case).circuit(0.2)],
        lambda case, some: circuits.compare_circuits(some),
    ),
    "circuits.match_roles": Call(
        "match_roles(first, second)",
        lambda case: circuits.node_roles(case.model, case.task, scored(case)),
        lambda case, roles: circuits.match_roles(roles, roles, draws=4),
    ),
    "circuits.shared_core": Call(
        "shared_core(scores, task, 0.1)",
        scored,
        lambda case, scores: circuits.shared_core(scores, case.task, 0.1, draws=4),
    ),
    "circuits.core_faithfulness": Call(
        "core_faithfulness(model, task, population)",
        lambda case: circuits.shared_core(scored(case), case.task, 0.1, draws=4),
        lambda case, population: circuits.core_faithfulness(case.model, case.task, population),
        FEW,
    ),
    "dictionaries.train": Call(
        "train(source, dictionary), one reading of n rows of text",
        corpus,
        lambda case, text: dictionaries.train(LiveSource(case.model, text, SITE), empty(case), batch=64),
    ),
    "dictionaries.evaluate": Call(
        "evaluate(model, dictionary, corpus, rows=n)",
        corpus,
        lambda case, text: dictionaries.evaluate(case.model, dictionary(case), text, rows=case.n),
    ),
    "dictionaries.geometry": Call("geometry(dictionary)", dictionary, lambda case, one: dictionaries.geometry(one)),
    "dictionaries.match": Call("match(one, other)", dictionary, lambda case, one: dictionaries.match(one, one)),
    "editing.disable": Call(
        "disable(model, names, task)",
        nothing,
        lambda case, _: digsite.disable(case.model, ["layers.0.attn.z[0]"], case.task),
        FEW,
    ),
    "investigations.investigate": Call(
        "investigate(model, task)", nothing, lambda case, _: digsite.investigate(case.model, case.task), FEW
    ),
}
"""By the method's name; a method that is not here is not measured."""
