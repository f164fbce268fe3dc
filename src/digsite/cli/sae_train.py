"""`digsite sae train`: dictionaries from a model and your own text, or from a store."""

import fnmatch
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter

from digsite._core.errors import BadInput, explain
from digsite.cli.dashboard import Dashboard
from digsite.cli.inputs import AS_STORED, Count, Loading
from digsite.cli.outputs import Json, answers, check_folder, columns, duration, note, origin, print_json
from digsite.cli.sae_choice import AS_USUAL, Route, Wanted
from digsite.cli.sae_text import Field, Files, halves

if TYPE_CHECKING:
    from digsite.dictionaries import Dictionary
    from digsite.dictionaries.planning import TrainingPlan
    from digsite.dictionaries.training import TrainedDictionaries
    from digsite.store import Source

_ROWS = 1_000_000
"""Rows that are learned from at least, unless --rows is given; little text is read several times."""
_STEPS = 2000
"""Steps that there are about, unless --batch is given."""
_BUFFER = 131_072
"""Rows that are shuffled at one time, or a quarter of all."""
_HELD = 2**30
"""Bytes of rows that are kept in memory where the text is read several times."""


class _Opened(NamedTuple):
    """What there is to learn from.

    Attributes:
        source: The rows.
        routes: What each dictionary reads and writes.
        about: For the record of a dictionary.
        device: Where dictionaries are trained.
    """

    source: "Source"
    routes: list[Route]
    about: dict[str, Any]
    device: str


def train(
    model: Annotated[str, Parameter(help="A hub id, a folder, digsite/tinyworld; or a store that harvest wrote.")],
    /,
    *,
    corpus: Files | None = None,
    out: Path,
    wanted: Wanted = AS_USUAL,
    rows: Count | None = None,
    batch: Count | None = None,
    length: Count | None = None,
    keep_bos: bool = False,
    field: Field = "text",
    seed: int = 0,
    json: Json = False,
    loading: Loading = AS_STORED,
) -> None:
    """Trains sparse dictionaries on your own text; says first what it will take.

    The end of the text is held out for `digsite sae eval`. A training that was stopped goes on when it is started
    again.

    Args:
        out: Folder for the result; each dictionary has a folder in it.
        rows: Tokens to learn from. Unless given, all of the text once, or a million: little text is read several times.
        batch: Tokens in a step. Unless given, 128 to 4096, for about 2000 steps.
        length: Tokens that the model reads together; 128, or its context, unless given.
        keep_bos: Learn from the BOS too, whose activations are of another size.
        seed: Of the first numbers and the order of rows.
    """
    from digsite.dictionaries.planning import plan_training
    from digsite.dictionaries.training import refuse_finished, state_of
    from digsite.dictionaries.training import train as learn

    refuse_finished(out)
    check_folder(out)
    if _is_store(model):
        opened = _store(model, wanted, corpus)
    else:
        opened = _live(model, wanted, corpus, length, loading, keep_bos=keep_bos, field=field)
    source = opened.source
    served = rows or max(source.rows, _ROWS)
    step = batch or _batch(served)
    settings: dict[str, Any] = {
        "rows": served,
        "batch": step,
        "buffer": max(step, min(_BUFFER, served // 4)),
        "seed": seed,
    }
    pairs = wanted.dictionaries(opened.routes, source.widths)
    for one, recipe in pairs.values():
        one.config = replace(one.config, origin=opened.about | {"l0": recipe.l0})
        one.to(opened.device)
    source = _remembered(source) if served > source.rows else source
    plan = plan_training(source, pairs, **settings)
    for line in (repr(source), *(repr(one) for one, _ in pairs.values()), plan.verdict, *plan.notes):
        note(line)
    note(f"about {duration(plan.seconds)} here")
    if state_of(out).is_dir():
        note(f"goes on with what was learned in {state_of(out)}")
    dashboard = Dashboard(plan.rows)
    try:
        with dashboard.shown():
            made = learn(source, pairs, folder=out, callbacks=[dashboard], **settings)
    except KeyboardInterrupt:
        if state_of(out).is_dir():
            note(f"what was learned so far is in {state_of(out)}; the same command goes on from there")
        raise
    made.figure().save(out / "training.svg")
    _show(made, plan, out, model, corpus, json=json)


def _is_store(name: str) -> bool:
    return "://" in name or (Path(name) / "manifest.json").is_file()


def _store(name: str, wanted: Wanted, corpus: list[Path] | None) -> _Opened:
    from digsite.store import Store

    if corpus:
        raise BadInput(explain("A store has its text already", found=f"--corpus {corpus[0]}", do="leave --corpus out"))
    store = Store(name)
    there = list(store.widths)

    def expand(site: str) -> list[str]:
        found = fnmatch.filter(there, site)
        if not found:
            raise BadInput(explain(f"The store has no column {site}", possible=there, near=site))
        return found

    def usual() -> list[str]:
        if len(there) > 1:
            raise BadInput(explain("The store has several columns", possible=there, do="choose with --site"))
        return there

    routes = wanted.routes(expand, usual)
    used = list(dict.fromkeys(column for route in routes for column in (*route.reads, *route.writes)))
    return _Opened(Store(name, columns=used), routes, {}, "cpu")


def _live(
    name: str,
    wanted: Wanted,
    corpus: list[Path] | None,
    length: int | None,
    loading: Loading,
    *,
    keep_bos: bool,
    field: str,
) -> _Opened:
    if not corpus:
        raise BadInput(
            explain("A model needs text to read", do="--corpus notes.txt; or name a store that harvest wrote")
        )
    loaded = loading.load(name)
    from digsite.store import LiveSource

    def expand(site: str) -> list[str]:
        return [str(one) for one in loaded.anatomy.expand(site)]

    routes = wanted.routes(expand, lambda: [f"layers.{loaded.n_layers // 2}.resid_post"])
    used = dict.fromkeys(column for route in routes for column in (*route.reads, *route.writes))
    text = halves(corpus, loaded, length=length, field=field)
    about = {"model": loaded.name, "length": text.learn.length, "sequences": text.sequences, "keep_bos": keep_bos}
    note(
        f"{text.learn.name}: {text.sequences:,} sequences of {text.learn.length} tokens; {len(text.held)} more held out"
    )
    return _Opened(LiveSource(loaded, text.learn, used, bos=keep_bos), routes, about, str(loaded.device))


def _remembered(source: "Source") -> "Source":
    """The source, kept in memory if it is small: it will be read several times."""
    from digsite.store import LiveSource, Remembered

    small = source.rows * sum(source.widths.values()) * 4 <= _HELD
    return Remembered(source) if small and isinstance(source, LiveSource) else source


def _batch(rows: int) -> int:
    """A power of two, for about as many steps as are wished."""
    return min(4096, max(128, 2 ** ((rows // _STEPS).bit_length() - 1)))


def _show(
    made: "TrainedDictionaries",
    plan: "TrainingPlan",
    out: Path,
    model: str,
    corpus: list[Path] | None,
    *,
    json: bool,
) -> None:
    ends = [made.curves.filter(dictionary=name).row(-1, named=True) for name in made.names]
    folders = [str(out / name) for name in made.names]
    text = " ".join(["--corpus", *map(str, corpus or ["TEXT"])])
    judged = "eval" if len(folders) == 1 else "compare"
    then = f"digsite sae {judged} {out} --model {'MODEL' if corpus is None else model} {text}"
    if json:
        rows = [
            {"name": name, "folder": folder} | _described(made.dictionaries[name], recipe) | _numbers(end)
            for name, recipe, folder, end in zip(made.names, made.recipes, folders, ends, strict=True)
        ]
        planned = {"rows": plan.rows, "steps": plan.steps, "batch": plan.batch, "memory": plan.memory}
        told = {
            "verdict": made.verdict,
            "folder": str(out),
            "figure": str(out / "training.svg"),
            "plan": planned | {"seconds": plan.seconds},
        }
        print_json(told | {"dictionaries": rows} | origin(made) | {"next": then})
        return
    table = columns("dictionary", "latents", "FVU", "L0", "dead", "loss")
    for name, end in zip(made.names, ends, strict=True):
        numbers = (f"{end['fvu']:.1%}", f"{end['l0']:.3g}", f"{end['dead']:.1%}", f"{end['loss']:.4g}")
        table.add_row(name, f"{made.dictionaries[name].width:,}", *numbers)
    table.caption = "on the last rows that were learned from"
    out_ = answers()
    for part in (made.verdict, "", table, ""):
        out_.print(part)
    for folder in folders:
        out_.print(f"dictionary: {folder}", soft_wrap=True)
    out_.print(f"curves: {out / 'training.svg'}", soft_wrap=True)
    out_.print(f"judge {'it' if len(folders) == 1 else 'them'}: {then}", soft_wrap=True)


def _numbers(end: dict[str, Any]) -> dict[str, Any]:
    """What was told last, without what the rest of the document says."""
    return {name: value for name, value in end.items() if name not in ("dictionary", "seconds_left")}


def _described(dictionary: "Dictionary", recipe: str) -> dict[str, Any]:
    """What a dictionary is."""
    config = dictionary.config
    sizes = {"latents": dictionary.width, "parameters": sum(x.numel() for x in dictionary.parameters())}
    return (
        {"family": config.family, "reads": list(config.reads), "writes": list(config.writes)}
        | sizes
        | {"recipe": recipe}
    )
