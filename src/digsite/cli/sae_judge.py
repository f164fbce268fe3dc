"""`digsite sae eval` and `compare`: how good dictionaries are on text that they did not learn from."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from digsite._core.errors import BadInput, Unsupported, explain
from digsite.cli.inputs import AS_STORED, Count, Loading, ModelName
from digsite.cli.outputs import NOWHERE, Saving, answers, columns, note, origin, print_json, print_saved, spent
from digsite.cli.sae_stored import only, stored
from digsite.cli.sae_text import Field, Files, unseen

if TYPE_CHECKING:
    from digsite import Corpus, Model
    from digsite.dictionaries import Dictionary, DictionaryEvaluation, Frontier

Stored = Annotated[Path, Parameter(help="A folder of `sae train` or `sae import`, or of one dictionary.")]


def eval_(
    folder: Stored,
    /,
    *,
    model: ModelName,
    corpus: Files,
    no_baselines: bool = False,
    retrain: bool = False,
    rows: Count = 64,
    batch: Count = 8,
    seed: int = 0,
    field: Field = "text",
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """How good is a dictionary on text that it did not learn from, beside everything it has to beat?

    Of the text that it was trained on, only the end that was held out is used.

    Args:
        no_baselines: Judge the dictionary alone.
        retrain: Train one like it on the model with its weights shuffled, too. Takes as long as training did, and
            needs the text of the training.
        rows: Sequences to judge on; as many more are used to fit the baselines.
        batch: Sequences in a pass.
        seed: Of every random choice.
    """
    saving.check()
    name, dictionary = only(folder)
    loaded = loading.load(model)
    from digsite.dictionaries import evaluate

    dictionary.to(loaded.device)
    text, learned = unseen(corpus, loaded, dictionary.config.origin, field=field)
    again = None
    if retrain:
        if learned is None:
            asked = "The baseline of random weights learns from the text that the dictionary learned from"
            found = f"{text.name}, which is another text"
            raise BadInput(explain(asked, found=found, do="give the text of the training, or leave --retrain out"))
        from digsite.dictionaries import retrain_like

        again = retrain_like(dictionary, learned)
    note(f"{name}: {dictionary!r}")
    which = _which(text.name, held=learned is not None)
    note(f"judged on {which}: {min(2 * rows, len(text)):,} of {len(text):,} sequences")
    told = evaluate(
        loaded, dictionary, text, baselines=not no_baselines, retrain=again, rows=rows, batch=batch, seed=seed
    )
    if saving.json:
        about = {"verdict": told.verdict, "dictionary": told.dictionary, "model": told.model, "corpus": told.corpus}
        held = {"held_out": learned is not None, "missing": list(told.missing), "warnings": list(told.warnings)}
        print_json(about | held | {"judged": told.to_frame().to_dicts()} | origin(told) | _files(told, saving))
        return
    table = columns("judged", "FVU", "95 %", "L0", "recovered", "KL", "dead", "dense")
    for row in told.to_frame().filter(place=told.places[0]).to_dicts():
        table.add_row(row["judged"], *_numbers(row), f"{row['dead']:.0%}", f"{row['dense']:.0%}")
    table.caption = f"recovered: of the loss that zero ablation costs; KL in nats a token; {told.places[0]}"
    out = answers()
    for part in (told.verdict, "", table, "", spent(told)):
        out.print(part)
    print_saved(_files(told, saving))


def _files(told: "DictionaryEvaluation", saving: Saving) -> dict[str, str | None]:
    """Saves the result; beside it in its folder three figures."""
    paths = saving.save(told)
    if saving.out is not None:
        from digsite.viz.dictionaries import density_figure, loss_figure

        told.figure().save(saving.out / "fvu.svg")
        loss_figure(told).save(saving.out / "loss.svg")
        density_figure(told).save(saving.out / "density.svg")
    return paths


def compare_(
    folders: Annotated[list[Path], Parameter(help="Folders of `sae train` or `sae import`, or of one dictionary.")],
    /,
    *,
    model: ModelName,
    corpus: Files,
    no_baselines: bool = False,
    rows: Count = 64,
    batch: Count = 8,
    seed: int = 0,
    field: Field = "text",
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """Which of several dictionaries leaves least unexplained, with how few latents, and what do they share?

    Those that write the same sites stand side by side. All are judged on the same text: the end of a text that was held
    out from all of them, or another text.

    Args:
        no_baselines: Judge the dictionaries alone.
        rows: Sequences to judge on; as many more are used to fit the baselines.
        batch: Sequences in a pass.
        seed: Of every random choice.
    """
    saving.check()
    several = _named(folders)
    groups: dict[tuple[str, ...], dict[str, Dictionary]] = {}
    for name, one in several.items():
        groups.setdefault(one.writes, {})[name] = one
    if saving.figure is not None and len(groups) > 1:
        found = f"dictionaries of {len(groups)} sites"
        raise BadInput(explain("--figure draws dictionaries of one site", found=found, do="--out saves each site's"))
    loaded = loading.load(model)
    text, held = _common(corpus, loaded, several, field=field)
    note(f"{len(several)} dictionaries, judged on {_which(text.name, held=held)}")
    options = {"baselines": not no_baselines, "rows": rows, "batch": batch, "seed": seed}
    judged = [_side_by_side(loaded, some, text, options) for some in groups.values()]
    saved = [_saved(frontier, saving, alone=len(groups) == 1) for frontier, _ in judged]
    if saving.json:
        found = [
            {"verdict": frontier.verdict, "columns": list(frontier.columns), "points": frontier.to_frame().to_dicts()}
            | {"shared": shared}
            | origin(frontier)
            | paths
            for (frontier, shared), paths in zip(judged, saved, strict=True)
        ]
        print_json({"model": loaded.name, "corpus": text.name, "held_out": held, "frontiers": found})
        return
    for (frontier, shared), paths in zip(judged, saved, strict=True):
        _show_frontier(frontier, shared)
        print_saved(paths)


def _named(folders: list[Path]) -> dict[str, "Dictionary"]:
    """All dictionaries of some folders, each with a name of its own."""
    each = [(folder, name, one) for folder in folders for name, one in stored(folder).items()]
    names = [name for _, name, _ in each]
    return {name if names.count(name) == 1 else f"{folder}/{name}": one for folder, name, one in each}


def _common(
    corpus: list[Path], model: "Model", several: dict[str, "Dictionary"], *, field: str
) -> tuple["Corpus", bool]:
    """Text that none of them learned from; whether it is what all held out."""
    found = {
        name: unseen(corpus, model, {"length": _length(several), **one.config.origin}, field=field)
        for name, one in several.items()
    }
    texts = {name: text.fingerprint for name, (text, _) in found.items()}
    if len(set(texts.values())) > 1:
        first, *others = texts
        other = next(name for name in others if texts[name] != texts[first])
        asked = f"{first} and {other} did not hold out the same part of this text"
        raise BadInput(explain(asked, do="judge them on another text"))
    text, learned = next(iter(found.values()))
    return text, learned is not None


def _length(several: dict[str, "Dictionary"]) -> Any:
    """The length of sequences that those learned from which learned from text."""
    return next((length for one in several.values() if (length := one.config.origin.get("length"))), None)


def _side_by_side(
    model: "Model", several: dict[str, "Dictionary"], text: "Corpus", options: dict[str, Any]
) -> tuple["Frontier", list[dict[str, Any]]]:
    """The frontier of dictionaries that write the same, and what of the first the others found too."""
    from digsite.dictionaries import compare, evaluate
    from digsite.dictionaries.geometry import SAME, match

    found = {name: evaluate(model, one.to(model.device), text, **options) for name, one in several.items()}
    (first, one), *others = several.items()
    shared = []
    for name, other in others:
        try:
            told = match(one, other, seed=options["seed"])
        except Unsupported as error:
            note(f"{first} and {name}: {error}")
            continue
        chance = float((told.null[told.nearest.isfinite()] >= SAME).double().mean())
        seeds = [each.config.origin.get("seed") for each in (one, other)]
        shared.append(
            {"of": first, "found_in": name, "share": told.found_again, "by_chance": chance}
            | {"same_seed": seeds[0] is not None and seeds[0] == seeds[1]}
        )
    return compare(found), shared


def _saved(frontier: "Frontier", saving: Saving, *, alone: bool) -> dict[str, str | None]:
    if alone or saving.out is None:
        return saving.save(frontier)
    return Saving(out=saving.out / "-".join(frontier.columns)).save(frontier)


def _show_frontier(frontier: "Frontier", shared: list[dict[str, Any]]) -> None:
    rows = frontier.to_frame().to_dicts()
    table = columns("dictionary", "FVU", "95 %", "L0", "recovered", "KL", "best baseline")
    for row in (row for row in rows if row["kind"] == "dictionary"):
        table.add_row(row["name"], *_numbers(row), _best_baseline(row["name"], rows))
    table.caption = (
        f"recovered: of the loss that zero ablation costs; KL in nats a token; {', '.join(frontier.columns)}"
    )
    out = answers()
    for part in (frontier.verdict, "", table, ""):
        out.print(part)
    for pair in shared:
        said = f"{pair['share']:.0%} of the latents of {pair['of']} have a match of their own in {pair['found_in']}"
        began = "; both began with the same random numbers" if pair["same_seed"] else ""
        out.print(f"{said} (by chance {pair['by_chance']:.0%}{began})")


def _best_baseline(name: str, rows: list[dict[str, Any]]) -> str:
    """The baseline that leaves least unexplained."""
    own = [
        row for row in rows if row["kind"] == "baseline" and row["of"] == name and not row["name"].startswith("without")
    ]
    best = min(own, key=lambda row: row["fvu"], default=None)
    return "–" if best is None else f"{best['name']} {best['fvu']:.1%}"


def _numbers(row: dict[str, Any]) -> list[str]:
    interval = f"{row['fvu_low']:.1%} to {row['fvu_high']:.1%}"
    return [f"{row['fvu']:.1%}", interval, f"{row['l0']:.3g}", _share(row["recovered"]), _share(row["kl"], ".3g")]


def _share(value: float, how: str = ".1%") -> str:
    return "–" if math.isnan(value) else format(value, how)


def _which(name: str, *, held: bool) -> str:
    return f"the end of {name}, which was held out" if held else name
