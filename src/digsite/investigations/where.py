"""Where is something represented, and is what is read there what the model uses?

Prompts are told apart by their answer, where a task has two (she, he), else by whether they are clean. Half of the
examples, drawn by the seed with both labels, chooses the place; the other half says what is there. Prompts that begin
alike, where the beginning tells the label, lie on one side of every split: a probe would know them by heart.

1. Sweep: a probe at every site and position, on the first half. The best cell is chosen on one part of what is held out
   and judged on the other; of several that read as well it is the first.
2. Probe card of that cell on the second half. On prompts that the probe was not fitted on: does the task need the
   direction, more than an equal change in random directions?
3. Steer card on those prompts: the direction is added, its effect against its cost on text without the task, beside
   random directions. By answer the effect is the log odds of one answer against the other; by clean it is the task's
   metric on corrupt prompts, which the direction is to turn.
4. Transfer to other sets: a probe of each is judged on all.

The probe is the mean difference: it reads, it is what is taken away, and it is what is added; a logistic probe reads
with another vector than the one that steers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, DigsiteError, Unsupported, explain
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.directions.labelled import split
from digsite.directions.probes import STREAM, LabelledPrompts, causal_check, probe_card, probe_sweep, transfer_matrix
from digsite.directions.probes.prompts import seen
from digsite.directions.probes.sweep import task_places
from digsite.directions.steering import Target, steer_card, token_target
from digsite.directions.texts import Texts, by_answer, clean_or_corrupt, two_answers
from digsite.investigations.investigation import task_card
from digsite.investigations.located import WhereInvestigation
from digsite.models import Model, Tokens, made_by
from digsite.models.measure import TokenSource
from digsite.models.tokens import grid, pad_id
from digsite.sites import Site
from digsite.tasks import Task
from digsite.tasks.families import FAMILIES
from digsite.toys import tinyworld
from digsite.toys.tinyworld.documents import Author

FEWEST = 80
"""Examples below which the parts are too small to choose, fit and judge."""
NEUTRAL = 32
"""Prompts or documents that stand in for text."""
FIT = "mean-difference"
TINYWORLD = "digsite/tinyworld"


@method
def where(
    model: Model,
    task: Task,
    *,
    name: str = "",
    others: Mapping[str, Task | LabelledPrompts] | None = None,
    text: TokenSource | None = None,
    sites: str | Site | Iterable[str | Site] = STREAM,
    draws: int = 20,
    seed: int = 0,
    command: str = "",
) -> WhereInvestigation:
    """Where something is represented: read best, used by the model, good to steer with, the same in other wording.

    Args:
        model: The model.
        task: Prompts whose right answer tells what is asked for: two answers, or clean and corrupt pairs; one-token
            answers, at least 80 examples.
        name: What is looked for, as a noun ("gender"); what the labels say unless given.
        others: Further sets by name: tasks with the same two answers (or, told apart by clean, any pairs), or prompts
            with labels of the same meaning (another language).
        text: Text without the task, on which the cost of steering is measured; unless given, prompts of another task
            family, or for digsite/tinyworld its own documents.
        sites: Where the sweep reads, wildcards allowed; all of one width.
        draws: How often labels are shuffled; and how many random directions the causal check has.
        seed: Of everything random.
        command: The call that makes the result again, where it is not `digsite.where(model, task)`.

    Returns:
        Every step with its control, interval and cost; `.report(path)` writes the page.

    Raises:
        BadInput: Too few examples, no labels that can be made, another set of other answers, no text to be had.
        Unsupported: Answers of several tokens.

    Units: AUROC, a fraction; the causal check in the unit of the task's metric; steering in nats (log odds) or that.

    Source: the order of steps is ours; those of the parts are in `probe_sweep`, `probe_card`, `causal_check`,
    `steer_card` and `transfer_matrix`.

    Caveats: The place is the first of those that read best, often where the word itself stands; `as_good` counts the
    others that do. It is read at one position, but added at every token, as one would steer with it. Read, used and
    steered with is evidence for a direction, not proof that it is the only one.
    """
    by, texts, places = _told_apart(task)
    _check(task, by, others or {})
    first, second = _halves(texts, task, seed)
    with measure() as cost:
        steps = iter(track(range(5), "looking where"))
        next(steps)  # 1.
        rows = _rows(texts, task, first)
        sweep = probe_sweep(
            model, texts.tokens[rows], texts.labels[rows], sites, at={one: at[rows] for one, at in places.items()},
            groups=texts.groups[rows], name=name or texts.name, fit=FIT, draws=draws, seed=seed,
        )  # fmt: skip
        next(steps)  # 2.
        site, place = sweep.sites[sweep.best.cell], sweep.places[sweep.best.cell]
        whole = LabelledPrompts(
            name=task.name, tokens=texts.tokens, labels=texts.labels, groups=texts.groups, at=places[place]
        )
        prompts = whole.take(_rows(texts, task, second))
        card = probe_card(model, replace(prompts, name=name or texts.name), site, fit=FIT, draws=draws, seed=seed)
        fresh = _fresh(task, second, prompts, places[place], seed)
        left = task.take(fresh)
        causal = causal_check(model, card.direction, left, at=places[place][fresh], draws=draws, seed=seed)
        next(steps)  # 3.
        neutral, called = (text, _called(text)) if text is not None else _without_the_task(model, task, seed)
        target = _target(model, left, by, texts.labels[fresh])
        steer = steer_card(model, card.direction, target=target, neutral=neutral, seed=seed)
        next(steps)  # 4.
        sets = [prompts, *_other_sets(task, by, texts, place, others or {})]
        transfer = transfer_matrix(model, sets, site, fit=FIT, seed=seed) if len(sets) > 1 else None
        for _ in steps:
            pass
    return WhereInvestigation(
        question=f"Where is {name or texts.name} represented in {model.name}?",
        model=model.name,
        task=task_card(task),
        by=by,
        selection=len(first),
        place=place,
        sweep=sweep,
        card=card,
        causal=causal,
        steer=steer,
        neutral=called,
        transfer=transfer,
        provenance=made_by(command or "digsite.where(model, task)", model, task.fingerprint, seed=seed),
        cost=cost,
    )


# -- labels and parts ------------------------------------------------------------------------------------------------
class _Pick(NamedTuple):
    """What tells prompts apart, the prompts with their labels, and places in them by name."""

    by: str
    texts: Texts
    places: dict[str, Int[Tensor, " batch"]]


def _told_apart(task: Task) -> _Pick:
    if task.keep > 1:
        asked = f"The task {task.name} has answers of several tokens, whose rows hold part of the answer"
        raise Unsupported(explain(asked, do="take answers of one token each"))
    if two_answers(task):
        places = task_places(task)
        return _Pick("answer", _grouped(by_answer(task), places), places)
    if task.corrupt is None:
        asked = f"No label can be made for the prompts of {task.name}"
        do = "give a task with two answers, or with a corrupt prompt for each"
        raise BadInput(explain(asked, found="no two answers, and no corrupt prompts", do=do))
    places = {name: at.repeat(2) for name, at in task_places(task).items()}
    return _Pick("clean", _grouped(clean_or_corrupt(task), places), places)


def _halves(texts: Texts, task: Task, seed: int) -> tuple[Tensor, Tensor]:
    """The examples that choose the place, and those that say what is there."""
    if len(task) < FEWEST:
        asked = f"To choose a place and to judge it needs {FEWEST} examples or more"
        raise BadInput(explain(asked, found=f"{len(task)} of {task.name}"))
    return split(texts.labels[: len(task)], texts.groups[: len(task)], 0.5, seed)


def _rows(texts: Texts, task: Task, examples: Int[Tensor, " example"]) -> Int[Tensor, " batch"]:
    """The prompts of some examples; the corrupt ones, where there are, follow all clean ones."""
    return torch.cat([examples + start for start in range(0, len(texts.labels), len(task))])


def _grouped(texts: Texts, places: Mapping[str, Tensor]) -> Texts:
    """Texts that begin alike up to a place, and whose label that beginning tells, lie on one side of every split.

    A probe there would know them by heart. So do those that were one group before.
    """
    known = texts.groups.unique(return_inverse=True)[1]
    rows, links, count = [torch.arange(len(known))], [known], int(known.max()) + 1
    for at in places.values():
        same: dict[tuple[int, ...], list[int]] = {}
        for row, ids in enumerate(seen(texts.tokens, at)):
            same.setdefault(ids, []).append(row)
        for alike in map(torch.tensor, same.values()):
            if len(texts.labels[alike].unique()) == 1:
                rows.append(alike)
                links.append(torch.full_like(alike, count))
                count += 1
    row, link = torch.cat(rows), torch.cat(links)
    pairs = coo_array((torch.ones(len(row)), (row, link + len(known))), shape=(len(known) + count,) * 2)
    _, found = connected_components(pairs, directed=False)
    return texts._replace(groups=torch.from_numpy(found[: len(known)]).long())


def _fresh(task: Task, examples: Tensor, prompts: LabelledPrompts, at: Tensor, seed: int) -> Int[Tensor, " example"]:
    """2. Examples whose clean prompt the probe was not fitted on, up to where it reads."""
    train, _ = prompts.split(0.5, seed)  # as the card splits them
    known = set(train.seen())
    ids = seen(task.clean[examples], at[examples])
    return examples[torch.tensor([row not in known for row in ids])]


# -- what steering is to raise, and text without it ------------------------------------------------------------------
def _target(model: Model, task: Task, by: str, labels: Tensor) -> Target:
    """3. One answer against the other; or the metric on corrupt prompts."""
    if by == "answer":
        yes, no = (
            list(dict.fromkeys(one for texts, label in zip(task.right.texts, labels, strict=True) if label == side
                               for one in texts))
            for side in (True, False)
        )  # fmt: skip
        return token_target(model, task.clean, yes, against=no)
    return Target(
        name=f"{task.metric_name.replace('_', ' ')} of {task.name} on corrupt prompts",
        unit=task.unit,
        prompts=task.require_corrupt(),
        score=lambda run: task.metric(run.logits),
        columns=task.keep,
    )


def _called(text: TokenSource) -> str:
    return getattr(text, "name", "the given prompts")


def _without_the_task(model: Model, task: Task, seed: int) -> tuple[TokenSource, str]:
    """3. tinyworld's own documents; or the prompts of the first other family that the model's tokenizer can make."""
    if model.name == TINYWORLD:
        return _documents(model, task, seed), "tinyworld's own documents, without those of the task"
    for family, make in FAMILIES.items():
        if family == task.name:
            continue
        try:
            made = make(model, n=NEUTRAL, seed=seed)
        except DigsiteError:
            continue
        if len(made.clean) >= NEUTRAL:
            return made.clean, f"prompts of the task {family}, as no text was given"
    asked = "The cost of steering is measured on text without the task, and none was given"
    found = "no other task family whose prompts this model's tokenizer can make"
    raise BadInput(explain(asked, found=found, do="give text=Corpus.read(file, model, length=64)"))


def _documents(model: Model, task: Task, seed: int) -> Tokens:
    """3. Documents of all families of the world but the task's."""
    others = tuple(family for family in tinyworld.FAMILIES if family.topic.replace(" ", "-") != task.name)
    written = Author(others).documents(np.random.default_rng([seed, 3]), notes=0.0)
    rows = [ids for ids, _ in islice(written, NEUTRAL)]
    return grid(rows, pad=pad_id(model.tokenizer), bos=task.clean.bos, tokenizer=model.tokenizer)


# -- other sets ------------------------------------------------------------------------------------------------------
def _check(task: Task, by: str, others: Mapping[str, Task | LabelledPrompts]) -> None:
    """Refuses, before any work, sets that would be refused after it."""
    if task.name in others:
        raise BadInput(explain(f"The name {task.name} is that of the task itself", do="give the set another name"))
    for called, other in others.items():
        if isinstance(other, LabelledPrompts):
            continue
        if by == "clean":
            other.require_corrupt()
        elif other.keep > 1 or set(two_answers(other)) != set(two_answers(task)):
            given = ", ".join(dict.fromkeys(one.strip() for some in other.right.texts[:4] for one in some))
            do = "give LabelledPrompts, whose labels you say yourself"
            asked = f"The answers of {called} are not those of {task.name}, so its labels cannot be made"
            raise BadInput(explain(asked, found=given, possible=two_answers(task), do=do))


def _other_sets(
    task: Task, by: str, texts: Texts, place: str, others: Mapping[str, Task | LabelledPrompts]
) -> list[LabelledPrompts]:
    """4. The other sets, with labels of the same meaning, read at the same place; a number is counted from the end."""
    at = str(int(place) - task.clean.lengths[0]) if place.isdigit() else place
    return [
        replace(other, name=called)
        if isinstance(other, LabelledPrompts)
        else _labelled(other, called, task, by, texts, at)
        for called, other in others.items()
    ]


def _labelled(other: Task, called: str, task: Task, by: str, texts: Texts, at: str) -> LabelledPrompts:
    """Another task's prompts, labelled as the task's are."""
    read = task_places(other, [at])[at]
    if by == "clean":
        found, read = clean_or_corrupt(other), read.repeat(2)
    else:
        found = by_answer(other)
        if not set(_answers_of(other, found.labels)) & set(_answers_of(task, texts.labels)):
            found = found._replace(labels=~found.labels)  # the more frequent answer is another one there
    _, tokens, labels, groups = _grouped(found, {at: read})
    return LabelledPrompts(name=called, tokens=tokens, labels=labels, groups=groups, at=read)


def _answers_of(task: Task, labels: Tensor) -> list[str]:
    """The right answers where the label is yes, in lower case."""
    sides = zip(task.right.texts, labels.tolist(), strict=True)
    return [one.strip().lower() for some, yes in sides if yes for one in some]
