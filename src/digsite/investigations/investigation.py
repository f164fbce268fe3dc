"""The main job: how does this model do this task?

1. Does it do the task at all? Accuracy with a Wilson interval.
2. Where in depth does the answer appear? Logit lens.
3. Which components write it? Direct attribution, which sums to the metric.
4. Which positions, heads and MLPs carry it? Activation patching in both directions.
5. Propose a set on one half of the examples: of the components that restore and destroy least, leave out the one that
   is missed least, and again, as long as the rest keeps 85 % of the behaviour.
6. On the other half: does knocking out just those break it, and does keeping just those keep it, against random sets of
   the same size?
7. Which edges between components carry it? Scored by EAP-IG on the first half, the smallest circuit that keeps 85 %
   there, judged on the other half against random circuits.
8. What did it cost?
"""

from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, Unsupported, explain
from digsite._core.numerics import wilson_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.circuits import Faithfulness, eap_ig, faithfulness
from digsite.graphs import Circuit
from digsite.investigations.answer import Investigation, Prompt, TaskCard
from digsite.lenses import logit_lens
from digsite.models import Model, made_by
from digsite.patching import ablation, activation_patching, components, direct_attribution, evaluate_sets, replacements
from digsite.tasks import Task

ENOUGH = 0.85
"""The share of the behaviour that the proposed set is to keep on the selecting examples."""
CANDIDATES = 16
"""How many of the weakest components are tried at each step."""
CHOOSING = 48
"""How many of the selecting examples are used for the many sets that are tried."""


@method
def investigate(
    model: Model, task: Task, *, random_sets: int = 200, random_examples: int = 50, seed: int = 0, command: str = ""
) -> Investigation:
    """How a model does a task, as a tested explanation.

    Args:
        model: The model.
        task: Clean and corrupt pairs with one-token answers; at least 8 examples.
        random_sets: How many random sets the proposed set is compared with.
        random_examples: Examples on which random sets are measured.
        seed: Of everything random.
        command: The call that makes the result again, where it is not `digsite.investigate(model, task)`.

    Returns:
        Every piece of evidence with its control, interval and cost; `.report(path)` writes the page.

    Raises:
        BadInput: Too few examples, or a task without corrupt prompts.

    Caveats:
        The set is one that is enough and needed on this task's distribution under replacement from corrupt prompts; it
        is not the only one, and another corruption asks another question.
    """
    task.require_corrupt()
    if len(task) < 8:
        raise BadInput(explain("An investigation needs at least 8 examples", found=f"{len(task)}"))
    half = len(task) // 2
    with measure() as cost:
        steps = iter(track(range(8), "investigating"))
        next(steps)
        correct = _correct(model, task)  # 1.
        next(steps)
        lens = logit_lens(model, task)  # 2.
        next(steps)
        direct = direct_attribution(model, task)  # 3.
        next(steps)
        everything = list(components(model))  # 4.
        denoise = activation_patching(model, task, everything, direction="denoise", seed=seed)
        next(steps)
        noise = activation_patching(model, task, everything, direction="noise", seed=seed)
        positions = _positions(model, task, seed)
        next(steps)
        judged, path = None, torch.zeros(0)  # 5.
        circuit, edges, no_circuit = None, None, "it does not do the task"
        if wilson_interval(int(correct.sum()), len(correct))[0] > 0.5:
            chosen, path = _proposed(model, task.take(slice(0, half)), denoise.effects, noise.effects)
            next(steps)
            held_out = task.take(slice(half, None))  # 6.
            judged = ablation(
                model, held_out, chosen, random_sets=random_sets, random_examples=random_examples, seed=seed
            )
            next(steps)
            circuit, edges, no_circuit = _edges(model, task.take(slice(0, min(half, CHOOSING))), held_out, seed)  # 7.
        for _ in steps:
            pass
    return Investigation(
        question=task.question,
        model=model.name,
        task=task_card(task),
        prompts=_prompts(task),
        correct=correct,
        lens=lens,
        direct=direct,
        denoise=denoise,
        noise=noise,
        positions=positions,
        selection=half,
        path=path,
        ablation=judged,
        circuit=circuit,
        edges=edges,
        no_circuit=no_circuit,
        provenance=made_by(command or "digsite.investigate(model, task)", model, task.fingerprint, seed=seed),
        cost=cost,
    )


def task_card(task: Task) -> TaskCard:
    """What was asked, as plain data."""
    told: dict[str, Any] = task.summary()
    told["spans"] = tuple(told["spans"])
    return TaskCard(**{field.name: told[field.name] for field in fields(TaskCard)})


def _correct(model: Model, task: Task) -> Float[Tensor, " example"]:
    return task.metric(model.run(task.clean, logits=task.keep).logits, "accuracy").float()


def _positions(model: Model, task: Task, seed: int):
    """The stream at every layer, at each position of aligned prompts, else at each span and the last position."""
    sites = [f"layers.{layer}.resid_pre" for layer in range(model.n_layers)]
    if len(set(task.clean.lengths)) == 1:
        return activation_patching(model, task, sites, at="each", seed=seed)
    usable = [name for name in task.spans if len({int(b - a) for a, b in task.row_spans(name).tolist()}) == 1]
    if not usable:
        return activation_patching(model, task, sites, at=task.answer_position, seed=seed)
    return activation_patching(model, task, sites, at=[*usable, "answer"], seed=seed)


def _proposed(
    model: Model, task: Task, restored: Tensor, destroyed: Tensor
) -> tuple[tuple[str, ...], Float[Tensor, " removal"]]:
    """The components that are left when, one by one, all have gone that the behaviour does without."""
    names = components(model)
    score = restored[:, : len(task)].mean(1) + destroyed[:, : len(task)].mean(1)
    few = task.take(slice(0, CHOOSING))
    values = replacements(model, few)
    ends = torch.tensor([[False] * len(names), [True] * len(names)])
    full, none = evaluate_sets(model, few, ends, values=values).mean(1)
    chosen, path = torch.ones(len(names), dtype=torch.bool), []
    for _ in track(range(len(names) - 1), "choosing the set"):
        left = chosen.nonzero().squeeze(1)
        weakest = left[score[left].argsort()][:CANDIDATES]
        without = chosen.repeat(len(weakest), 1)
        without[torch.arange(len(weakest)), weakest] = False
        kept = (evaluate_sets(model, few, ~without, values=values).mean(1) - none) / (full - none)
        best = int(kept.argmax())
        if kept[best] < ENOUGH:
            break
        chosen = without[best]
        path.append(float(kept[best]))
    return tuple(name for name, flag in zip(names, chosen.tolist(), strict=True) if flag), torch.tensor(path)


def _edges(model: Model, choosing: Task, judging: Task, seed: int) -> tuple[Circuit | None, Faithfulness | None, str]:
    """The smallest circuit of edges that keeps enough on some examples, judged on others; or why there is none."""
    try:
        scores = eap_ig(model, choosing)
        tried = faithfulness(model, choosing, scores, random_circuits=0, resamples=0, seed=seed)
        judged = faithfulness(model, judging, scores, rescore=eap_ig, seed=seed)
    except (Unsupported, BadInput) as refusal:
        return None, None, str(refusal).splitlines()[0]
    enough = (tried.curve >= ENOUGH).nonzero().flatten().tolist()
    share = tried.shares[enough[0] if enough else -1]
    return scores.circuit(share), judged, ""


def _prompts(task: Task, count: int = 12) -> tuple[Prompt, ...]:
    """The first pairs exactly as the model reads them."""
    corrupt = task.require_corrupt()
    tokenizer = task.clean.tokenizer
    shown = []
    for example in range(min(count, len(task))):
        row = int(task.right.rows[example, 0])
        right, wrong = (
            tuple("".join(answer) for answer in side.spelled(example, tokenizer)) for side in (task.right, task.wrong)
        )
        shown.append(
            Prompt(
                clean=tuple(task.clean.strings[row]),
                corrupt=tuple(corrupt.strings[row]),
                right=right,
                wrong=wrong,
                group=task.groups[example],
                special=tuple(tokenizer.all_special_tokens),
            )
        )
    return tuple(shown)
