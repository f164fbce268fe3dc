"""`digsite steer`: what a steering direction does, what it costs, and what a model writes with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cyclopts import App, Parameter

from digsite._core.cost import measure
from digsite._core.errors import BadInput, LoadError, explain
from digsite.cli.inputs import AS_STORED, AS_USUAL, Count, Examples, Loading, ModelName
from digsite.cli.outputs import (
    NOWHERE,
    Json,
    Saving,
    answers,
    columns,
    estimate,
    origin,
    print_json,
    print_saved,
    spent,
)
from digsite.cli.steer_files import stored

if TYPE_CHECKING:
    from digsite import Model, Task, Tokens
    from digsite.directions.steering import SteerCard
    from digsite.models.tokens import Positions

app = App(
    name="steer",
    help="What a steering does, what it costs, and what a model writes with it. The direction is found on one half of "
    "the prompts; of the other, half chooses the coefficient and half reports.",
)

Words = Annotated[
    list[str], Parameter(consume_multiple=True, help="Tokens that steering is meant to bring, with leading spaces.")
]
Against = Annotated[
    list[str] | None, Parameter(consume_multiple=True, help="Tokens they are weighed against; all others unless given.")
]
Grid = Annotated[list[float] | None, Parameter(consume_multiple=True, help="The coefficients.")]


class Contrast(NamedTuple):
    """Prompts that have it and prompts that do not, and where each is read."""

    plus: "Tokens"
    minus: "Tokens"
    at: "Positions"
    minus_at: "Positions"


@app.default
def card(
    *,
    model: ModelName,
    site: str,
    towards: Words,
    text: Path,
    against: Against = None,
    task: str | None = None,
    plus: Path | None = None,
    minus: Path | None = None,
    read_at: str = "-1",
    coefficients: Grid = None,
    unit: str = "norm",
    most_kl: float = 0.1,
    draws: Count = 5,
    keep: Path | None = None,
    examples: Examples = AS_USUAL,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """What does steering do, and what does it cost? The steer card of a difference of means.

    The direction is found on one half of the prompts. The other half is steered: half of it chooses the coefficient,
    half of it reports.

    Args:
        site: Where it is found and added, such as layers.1.resid_post.
        text: Neutral text (.txt, .md, .jsonl, .parquet), for the cost.
        task: A family or your own file, whose prompts are parted by whether their right answer is among --towards.
        plus: Instead of a task, a file of prompts that have it, one on each line.
        minus: A file of prompts that do not.
        read_at: The position that is read: a number, or a span of the task (its last token), such as name.
        unit: Of the coefficients: raw, norm, sd or max.
        most_kl: The KL in nats a token that the chosen coefficient may cost.
        draws: Random directions beside it.
        keep: Save the direction to this folder, for `digsite steer generate`.
    """
    from digsite.directions import save
    from digsite.directions.steering import difference, steer_card, token_target
    from digsite.directions.steering.card import COEFFICIENTS
    from digsite.tasks import Corpus

    saving.check()
    loaded = loading.load(model)
    neutral = Corpus.read(text, loaded, length=min(64, loaded.n_ctx or 64), rows=48)
    fit, rest = _halves(loaded, examples, task, plus, minus, towards, read_at)
    direction = difference(
        loaded,
        fit.plus,
        fit.minus,
        site,
        at=fit.at,
        minus_at=fit.minus_at,
        text=neutral,
        name=", ".join(word.strip() for word in towards),
    )
    found = steer_card(
        loaded,
        direction,
        target=token_target(loaded, rest, towards, against=against),
        neutral=neutral,
        coefficients=coefficients or COEFFICIENTS,
        unit=unit,
        most_kl=most_kl,
        draws=draws,
        seed=examples.seed,
    )
    if keep is not None:
        save(direction, keep)
    _tell(found, loaded.name, saving, keep)


def _tell(found: "SteerCard", model: str, saving: Saving, keep: Path | None) -> None:
    """Prints a card and says where it went."""
    from digsite.viz import steer_report

    rows, paths = found.to_frame().to_dicts(), saving.save(found)
    if saving.out is not None:
        paths["page"] = str(steer_report(found).write(saving.out / "steer.html"))
    paths["direction"] = None if keep is None else str(keep)
    if saving.json:
        told = {"verdict": found.verdict, "model": model, "failures": list(found.failures), "coefficients": rows}
        print_json(told | origin(found) | paths)
        return
    table = columns(found.unit, "effect", "random", "KL", "loss", "", left=0)
    for row in rows:
        if not row["finite"]:
            table.add_row(f"{row['coefficient']:g}", "not finite")
            continue
        least, most = row["random_least"], row["random_most"]
        random = "not finite" if least is None else f"{least:z.2f} to {most:z.2f}"
        numbers = (estimate(row["effect"], row["low"], row["high"]), random, f"{row['kl']:z.3f}")
        chosen = "chosen" if row["chosen"] else ""
        table.add_row(f"{row['coefficient']:g}", *numbers, f"{row['loss_added']:+z.3f}", chosen)
    table.caption = f"effect in {found.effect_unit} [95 % interval]; KL and loss in nats a token"
    out = answers()
    for part in (found.verdict, "", table, "", spent(found)):
        out.print(part)
    print_saved(paths)


@app.command
def generate(
    *,
    model: ModelName,
    direction: Path,
    prompt: Annotated[list[str], Parameter(consume_multiple=False)],
    coefficient: float = 1.0,
    unit: str = "norm",
    tokens: Count = 20,
    json: Json = False,
    loading: Loading = AS_STORED,
) -> None:
    """What does the model write with a direction added, and without?

    Args:
        direction: A folder of `digsite steer --keep` or `digsite steer import`; all of its directions are added.
        prompt: Where it begins; give the option again for another prompt.
        coefficient: How much of the direction is added.
        unit: Of the coefficient: raw, norm, sd or max.
        tokens: Most tokens to write.
    """
    from digsite.models import made_by

    added = stored(direction)
    loaded = loading.load(model)
    for each in added:
        each.check(loaded)
    edits = [each.add(coefficient, unit) for each in added]
    with measure() as cost:
        read = loaded.tokens(prompt)
        plain = loaded.generate(read, max_new_tokens=tokens)
        steered = loaded.generate(read, max_new_tokens=tokens, edits=edits)
    if json:
        edit = f"[direction.add({coefficient}, {unit!r}) for direction in digsite.directions.load({str(direction)!r})]"
        call = f"model.generate(model.tokens({prompt!r}), max_new_tokens={tokens}, edits={edit})"
        rows = zip(prompt, read.strings, plain.texts, steered.texts, strict=True)
        made = [dict(zip(("prompt", "tokens", "plain", "steered"), row, strict=True)) for row in rows]
        where = {"directions": [repr(each) for each in added], "coefficient": coefficient, "unit": unit}
        whence = {"cost": vars(cost), "provenance": made_by(call, loaded, read.fingerprint).to_dict()}
        print_json({"model": loaded.name, "bos": read.bos, **where, "generations": made} | whence)
        return
    out = answers()
    for each in added:
        out.print(repr(each), style="dim", soft_wrap=True)
    for start, before, after in zip(prompt, plain.texts, steered.texts, strict=True):
        out.print()
        for name, text in (("plain  ", before), ("steered", after)):
            out.print(f"{name}  {start}", end="", style="dim", soft_wrap=True)
            out.print(text, soft_wrap=True)


def _halves(
    model: "Model",
    examples: Examples,
    task: str | None,
    plus: Path | None,
    minus: Path | None,
    towards: list[str],
    read_at: str,
) -> tuple[Contrast, "Tokens"]:
    """The half that a direction is found on, and the prompts that are steered."""
    if (task is None) == (plus is None or minus is None):
        raise BadInput(explain("A direction is found between two sets of prompts", do="--task, or --plus and --minus"))
    if task is not None:
        return _of_task(examples.of(task)(model), towards, read_at)
    assert plus is not None and minus is not None
    at = _position(read_at)
    sides = [_lines(path) for path in (plus, minus)]
    both = [model.tokens(side[: len(side) // 2]) for side in sides]
    rest = model.tokens([line for side in sides for line in side[len(side) // 2 :]])
    return Contrast(both[0], both[1], at, at), rest


def _of_task(task: "Task", towards: list[str], read_at: str) -> tuple[Contrast, "Tokens"]:
    import torch

    right = torch.tensor([bool(set(texts) & set(towards)) for texts in task.right.texts])
    early = torch.arange(len(task)) < len(task) // 2
    if task.keep > 1 or not (early & right).any() or not (early & ~right).any():
        found = f"{int(right.sum())} of {len(task)} right answers are among {towards}"
        raise BadInput(explain(f"The prompts of {task.name} are not parted by --towards", found=found))
    sides = [early & right, early & ~right]
    places: list[Positions]
    if read_at in task.spans:
        last = task.spans[read_at][:, 1] - 1
        places = [last[side] for side in sides]
    else:
        places = [_position(read_at, spans=tuple(task.spans))] * 2
    return Contrast(task.clean[sides[0]], task.clean[sides[1]], *places), task.clean[~early]


def _position(text: str, spans: tuple[str, ...] = ()) -> int:
    try:
        return int(text)
    except ValueError:
        possible = ["a number", *spans]
        raise BadInput(explain(f"--read-at {text} is no position", possible=possible, near=text)) from None


def _lines(path: Path) -> list[str]:
    """The prompts of a file."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise LoadError(explain(f"The prompts {path} cannot be read", found=str(error))) from error
    if len(lines) < 2:
        raise BadInput(explain(f"{path} holds too few prompts", found=f"{len(lines)}", possible="8 or more"))
    return lines
