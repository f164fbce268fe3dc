"""`digsite finding`: claims of a dig, with what speaks for and against them, tested before they are believed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter, validators
from rich.table import Table

from digsite._core.errors import BadInput, explain
from digsite.cli.dig import InDig
from digsite.cli.inputs import AS_STORED, AS_USUAL, Count, Examples, Loading, ModelName, TaskName
from digsite.cli.needs import say_needs
from digsite.cli.outputs import Json, answers, columns, facts, note, origin, print_json, spent

if TYPE_CHECKING:
    from digsite import Model, Task
    from digsite.investigations import BatteryResult
    from digsite.journal import Dig, Finding

app = App(name="finding", help="Claims of a dig: write down, add evidence, test, decide, ask at another level.")

Level = Literal["neuron", "head", "latent", "circuit", "graph", "behaviour", "direction"]
Number = Annotated[int, Parameter(help="Of the finding; digsite finding list shows them.")]
Reason = Annotated[str, Parameter(help="Why, in a sentence.")]
_OPTIONS = ("n", "seed", "corruption", "language", "drop_unusable")


@app.command
def add(
    claim: str,
    /,
    *,
    level: Level,
    subject: str,
    model: ModelName | None = None,
    task: TaskName | None = None,
    examples: Examples = AS_USUAL,
    dig: InDig = None,
    json: Json = False,
) -> None:
    """Write a claim down. It is open until it is tested.

    Args:
        claim: One sentence.
        level: What it is about.
        subject: Its address: layers.2.attn.z[3], several with commas, layers.1.mlp.act#17 (a neuron),
            digsite/tinyworld/sae-0#12 (a latent), the folder of a circuit or direction, or behaviour.
    """
    setting: dict[str, Any] = {} if model is None else {"model": model}
    if task is not None:
        setting["task"] = Path(task).stem if Path(task).suffix else task
        setting |= {"file": str(Path(task).resolve())} if Path(task).suffix else {}
        given = {name: getattr(examples, name) for name in _OPTIONS}
        setting |= {name: value for name, value in given.items() if value is not None and value is not False}
    with_dig = _dig(dig)
    _show(with_dig.findings.add(claim, level=level, subject=subject, setting=setting), json=json)


@app.command(name="list")
def list_(
    *,
    status: Literal["open", "supported", "refuted", "artefact"] | None = None,
    level: Level | None = None,
    dig: InDig = None,
    json: Json = False,
) -> None:
    """What was claimed, the newest first.

    Args:
        status: Only those of this status.
        level: Only those about this.
    """
    found = _dig(dig).findings.list(status=status, level=level)
    if json:
        print_json({"findings": [one.to_dict() for one in found]})
        return
    if not found:
        answers().print("There is no finding yet; digsite finding add writes one down.")
        return
    table = columns("", "status", "level", "claim", left=4)
    for one in found:
        table.add_row(str(one.id), one.status, one.level, one.claim)
    answers().print(table)


@app.command
def show(number: Number, /, *, dig: InDig = None, json: Json = False) -> None:
    """One finding with all that speaks for and against it."""
    _show(_dig(dig).findings.get(number), json=json)


@app.command
def evidence(
    number: Number,
    /,
    *,
    run: Count,
    stance: Annotated[Literal["for", "against"], Parameter(name="--stance")] = "for",
    words: str = "",
    withdraw: bool = False,
    dig: InDig = None,
    json: Json = False,
) -> None:
    """A run speaks for a finding, or against it. One against a supported finding opens it again.

    Args:
        run: Number of the run.
        stance: For or against.
        words: What it says about the finding.
        withdraw: Take the run from the finding instead.
    """
    findings = _dig(dig).findings
    before = findings.get(number)
    after = (
        findings.withdraw(number, run) if withdraw else findings.add_evidence(number, run, stance=stance, words=words)
    )
    if (before.status, after.status) == ("supported", "open"):
        note(f"finding {number} was supported, and is open again: {after.reason}")
    _show(after, json=json)


@app.command
def test(
    number: Number,
    /,
    *,
    draws: Annotated[int, Parameter(validator=validators.Number(gte=20))] = 20,
    dig: InDig = None,
    loading: Loading = AS_STORED,
    json: Json = False,
) -> None:
    """Five sanity checks: null input, shuffled labels, other seed, random weights, second metric.

    The result is a run of the dig. Of your own file one half is tested, and the other half is the new examples.

    Args:
        draws: Random subjects that each effect is compared with.
    """
    from digsite.investigations import examine
    from digsite.investigations.battery import rows_needed

    place = _dig(dig)
    finding = place.findings.get(number)
    loaded, asked, again = _setting(finding, loading)
    say_needs(loaded, asked, rows_needed(asked, draws))
    seed = int(finding.setting.get("seed", 0))
    after, result = examine(place, number, loaded, asked, again=again, draws=draws, seed=seed)
    run = next(one.run for one in reversed(after.evidence) if one.stance == "battery")
    if json:
        told = {"finding": after.to_dict(), "run": run, "verdict": result.verdict, "passed": result.passed}
        print_json(told | {"checks": result.to_frame().to_dicts()} | origin(result))
        return
    out = answers()
    out.print(result.verdict)
    out.print()
    out.print(_checks(result))
    out.print()
    out.print(f"run: {run}\n{spent(result)}")
    if result.passed:
        out.print(f"next: digsite finding support {number}")
    else:
        out.print(f"next: digsite finding artefact {number} --reason …", soft_wrap=True)


@app.command
def support(number: Number, /, *, reason: str = "", dig: InDig = None, json: Json = False) -> None:
    """Call a finding supported; refused unless its newest battery passed after the newest evidence.

    Args:
        reason: Why, beside the battery.
    """
    _show(_dig(dig).findings.support(number, reason), json=json)


@app.command
def refute(number: Number, /, *, reason: Reason, dig: InDig = None, json: Json = False) -> None:
    """The claim is wrong."""
    _show(_dig(dig).findings.refute(number, reason), json=json)


@app.command
def artefact(number: Number, /, *, reason: Reason, dig: InDig = None, json: Json = False) -> None:
    """What was seen is no fact about the model: a bug, a lucky draw, something that any model shows."""
    _show(_dig(dig).findings.artefact(number, reason), json=json)


@app.command
def reopen(number: Number, /, *, reason: Reason, dig: InDig = None, json: Json = False) -> None:
    """The question is open again."""
    _show(_dig(dig).findings.reopen(number, reason), json=json)


@app.command
def move(
    number: Number,
    /,
    *,
    to: Annotated[Level, Parameter(name="--to")],
    dictionary: str | None = None,
    most: Count = 3,
    dig: InDig = None,
    loading: Loading = AS_STORED,
    json: Json = False,
) -> None:
    """Ask the question at another level: a new open finding for each of the nearest subjects there.

    A head leads to the latents that it writes and to the recorded circuits that it is in, a latent to the heads that
    write it and to neurons, a neuron to latents, a circuit to its heads and MLPs, a behaviour to the heads and MLPs
    that carry it.

    Args:
        to: The level.
        dictionary: Of the latents; the built-in SAE of the layer unless given.
        most: How many new findings at most.
    """
    from digsite.investigations import move as moved

    place = _dig(dig)
    finding = place.findings.get(number)
    loaded, asked, _ = _setting(finding, loading)
    made, found = moved(
        place,
        number,
        to,
        loaded,
        task=asked,
        dictionary=dictionary,
        most=most,
        seed=int(finding.setting.get("seed", 0)),
    )
    if json:
        told = {"verdict": found.verdict, "findings": [one.to_dict() for one in made]}
        print_json(told | {"candidates": found.to_frame().to_dicts()} | origin(found))
        return
    out = answers()
    out.print(found.verdict)
    if made:
        out.print()
        table = columns("", "claim", "score", left=2)
        for one, score in zip(made, found.scores.tolist(), strict=False):
            table.add_row(str(one.id), one.claim, f"{score:.3g}")
        out.print(table)
        out.print(f"\nnext: digsite finding test {made[0].id}")


def _dig(folder: Path | None) -> "Dig":
    from digsite.journal import Dig

    return Dig.here(folder)


def _setting(finding: "Finding", loading: Loading) -> tuple["Model", "Task", "Task"]:
    """The model and the task of a finding, and new examples of it."""
    said = finding.setting
    if missing := [name for name in ("model", "task") if name not in said]:
        asked = f"Finding {finding.id} does not say in which {' and '.join(missing)} it holds"
        raise BadInput(explain(asked, do="write it down anew: digsite finding add … --model … --task …"))
    options: dict[str, Any] = {name: said[name] for name in _OPTIONS if name in said}
    ask = Examples(**options).of(str(said.get("file", said["task"])))
    loaded = loading.load(str(said["model"]))
    if "file" in said:
        whole = ask(loaded)
        half = len(whole) // 2
        note(f"{half} examples are tested, the other {len(whole) - half} are the new ones")
        return loaded, whole.take(slice(0, half)), whole.take(slice(half, None))
    options["seed"] = int(options.get("seed", 0)) + 1
    fresh = Examples(**options).of(str(said["task"]))
    return loaded, ask(loaded), fresh(loaded)


def _show(finding: "Finding", *, json: bool) -> None:
    if json:
        print_json(finding.to_dict())
        return
    out = answers()
    out.print(f"finding {finding.id}: {finding.claim}")
    out.print()
    setting = ", ".join(f"{name} {value}" for name, value in finding.setting.items()) or "none"
    rows = [("status", finding.status), ("since", f"{finding.changed.astimezone():%Y-%m-%d %H:%M}")]
    rows += [("reason", finding.reason)] if finding.reason else []
    rows += [("level", finding.level), ("subject", finding.subject), ("setting", setting)]
    rows += [("moved from", f"finding {finding.moved_from}")] if finding.moved_from else []
    out.print(facts(rows))
    if finding.evidence:
        out.print()
        table = columns("run", "stance", "words", left=3)
        for one in finding.evidence:
            table.add_row(str(one.run), one.stance, one.words or one.verdict)
        out.print(table)


def _checks(result: "BatteryResult") -> Table:
    table = columns("check", "must", "effect [95 %]", "null", "passed", left=2)
    for row in result.to_frame().to_dicts():
        made = row["n"] > 0
        effect = f"{row['effect']:.3g} [{row['low']:.3g}, {row['high']:.3g}]" if made else "not made"
        null = f"{row['null']:.3g}" if made else ""
        table.add_row(row["check"], row["must"], effect, null, "yes" if row["passed"] else "no")
    return table
