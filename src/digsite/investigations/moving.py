"""Findings of a dig put to work: tested by the battery, moved to another level.

1. A finding names its subject and setting; the caller brings the model and the task.
2. The method runs inside the dig, so that it is a run; the finding gets it as evidence.
3. A move writes down a new open finding for each of the nearest subjects: a question, not an answer.
"""

from pathlib import Path

from digsite._core.errors import BadInput, explain
from digsite.graphs import Circuit
from digsite.investigations.battery import FEWEST_DRAWS, BatteryResult, battery
from digsite.investigations.neighbours import Neighbours, neighbours
from digsite.journal import Dig, Finding, numbered
from digsite.journal.batteries import other_options
from digsite.journal.findings import LEVELS
from digsite.models import Model
from digsite.tasks import Task
from digsite.tasks.families import usual_options

CLAIMS = {
    "latent": "Latent {new} carries {task} where {old} does",
    "head": "{new} carries {task} where {old} does",
    "neuron": "Neuron {new} carries {task} where {old} does",
    "circuit": "The circuit {new} carries {task}, with {old} in it",
}
"""What a new finding says, by its level."""


def examine(
    dig: Dig,
    number: int,
    model: Model,
    task: Task,
    *,
    again: Task | None = None,
    draws: int = FEWEST_DRAWS,
    seed: int = 0,
) -> tuple[Finding, BatteryResult]:
    """Run the battery on a finding; its run becomes evidence. `dig.findings.support` then may call it supported.

    Args:
        dig: Where the finding is.
        number: The finding.
        model: The model of its setting.
        task: The task of its setting.
        again: As for `battery`.
        draws: As for `battery`.
        seed: As for `battery`.

    Raises:
        BadInput: The finding is about another model or task, or its subject cannot be tested.
    """
    finding = dig.findings.get(number)
    _same_setting(finding, model, task)
    with numbered(dig) as runs:
        result = battery(model, task, finding.subject, again=again, draws=draws, seed=seed, folder=dig.folder)
    return dig.findings.add_battery(number, runs[0]), result


def move(
    dig: Dig,
    number: int,
    level: str,
    model: Model,
    *,
    task: Task | None = None,
    dictionary: str | None = None,
    most: int = 3,
    seed: int = 0,
) -> tuple[list[Finding], Neighbours]:
    """Ask the question of a finding at another level: a new open finding for each of the nearest subjects there.

    Args:
        dig: Where the finding is.
        number: The finding.
        level: Where to; see `neighbours` for the ways that there are.
        model: The model of its setting.
        task: Of its setting; needed between heads and latents, and from a behaviour.
        dictionary: Of the latents; the built-in SAE of the layer if None.
        most: How many new findings at most.
        seed: Of everything random.

    Returns:
        The new findings, the strongest first (none, where nothing is beyond chance), and the numbers that led there.

    Raises:
        BadInput: There is no such level or way, or the finding is about another model or task.
    """
    finding = dig.findings.get(number)
    if level not in LEVELS:
        raise BadInput(explain(f"{level!r} is no level of a finding", possible=LEVELS, near=level))
    _same_setting(finding, model, task)
    circuits = recorded_circuits(dig) if level == "circuit" else None
    about = {"task": task, "dictionary": dictionary, "circuits": circuits}
    with numbered(dig) as runs:
        found = neighbours(model, finding.subject, level, **about, seed=seed, folder=dig.folder)
    made = []
    for subject, score, null in zip(found.subjects[:most], found.scores.tolist(), found.null.tolist(), strict=False):
        what = str(finding.setting.get("task", "the behaviour"))
        claim = CLAIMS[level].format(new=subject, old=finding.subject, task=what)
        setting = finding.setting
        new = dig.findings.add(claim, level=level, subject=subject, setting=setting, moved_from=number)
        words = f"{found.what} {score:.3g} {found.unit}".rstrip() + f"; chance {null:.3g}"
        made.append(dig.findings.add_evidence(new.id, runs[0], stance="for", words=words))
    return made, found


def recorded_circuits(dig: Dig) -> dict[str, Circuit]:
    """The circuits among a dig's runs, by their folder below the dig; the newest first."""
    found = {}
    for run in dig.runs(status="done"):
        if (run.folder / "result.json").is_file() and '"graphs.circuit/' in _head(run.folder / "result.json"):
            found[run.folder.relative_to(dig.folder).as_posix()] = Circuit.load(run.folder)
    return found


def _head(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(200)


def _same_setting(finding: Finding, model: Model, task: Task | None) -> None:
    """Refuses another model or task than the finding is about."""
    given = {"model": model.name} | ({} if task is None else {"task": task.name})
    for what, name in given.items():
        if (said := finding.setting.get(what)) is not None and said != name:
            asked = f"Finding {finding.id} is about the {what} {said}"
            raise BadInput(explain(asked, found=name, do=f"use {said}, or write down a finding about {name}"))
    if task is None:
        return
    for name, (meant, found) in other_options(finding.setting, task.options, usual_options(task.name)).items():
        asked = f"Finding {finding.id} is about the task {task.name} with {name}={meant}"
        do = f"make the task so, or write down a finding with {name} in its setting"
        raise BadInput(explain(asked, found=f"{name}={found}", do=do))
