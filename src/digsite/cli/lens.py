"""`digsite lens`: what the stream would say if the model ended earlier."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

import digsite
from digsite._core.errors import BadInput, explain
from digsite.cli.inputs import AS_STORED, AS_USUAL, Count, Examples, Loading, ModelName, TaskName
from digsite.cli.outputs import (
    NOWHERE,
    Json,
    Saving,
    answers,
    check_folder,
    columns,
    estimate,
    note,
    origin,
    print_json,
    print_saved,
    spent,
)
from digsite.cli.sae_text import Field, Files, halves, unseen

if TYPE_CHECKING:
    from digsite import Corpus, Model
    from digsite.lenses import JacobianFit, Lens, TunedFit

app = App(name="lens", help="Where in depth does the answer appear? A lens at every layer; fit and compare lenses.")
LensFolder = Annotated[Path, Parameter(help="A folder of `lens fit`.")]
_MARKER = "lens.json"


@app.default
def show(
    *,
    model: ModelName,
    task: TaskName,
    lens: LensFolder | None = None,
    examples: Examples = AS_USUAL,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """Where in depth does the answer appear? The logit lens at every layer, or a lens that was fitted.

    Args:
        lens: A folder of `lens fit`; the logit lens unless given.
    """
    saving.check()
    ask = examples.of(task)
    loaded = loading.load(model)
    asked = ask(loaded)
    through = None if lens is None else _stored(lens, loaded)
    found = digsite.logit_lens(loaded, asked, through)
    rows = found.to_frame().to_dicts()
    if saving.json:
        about = {"verdict": found.verdict, "model": loaded.name, "task": asked.summary(), "lens": found.lens}
        measured = {"layers": rows, "last_layer_error": found.last_layer_error}
        print_json(about | measured | origin(found) | saving.save(found))
        return
    table = columns("layer", "p(right)", "p(wrong)", "logit diff", "rank", "KL")
    for row in rows:
        names = ("right", "wrong", "logit_diff")
        numbers = (estimate(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in names)
        table.add_row(row["layer"], *numbers, f"{row['rank']:.1f}", f"{row['kl']:z.2f}")
    table.caption = f"means over {len(asked)} [95 % interval]; logit diff in logits, KL to the output in nats"
    out = answers()
    for part in (found.verdict, "", table, "", spent(found)):
        out.print(part)
    print_saved(saving.save(found))


@app.command
def fit(
    kind: Annotated[Literal["tuned", "jacobian", "future"], Parameter(help="How its maps are found.")],
    /,
    *,
    model: ModelName,
    corpus: Files,
    out: Path,
    ahead: Count = 1,
    steps: Count = 400,
    prompts: Count = 100,
    probes: Count | None = None,
    length: Count | None = None,
    seed: int = 0,
    field: Field = "text",
    figure: Path | None = None,
    json: Json = False,
    loading: Loading = AS_STORED,
) -> None:
    """Fits a lens on your text: at every layer a map that carries the stream to the end of the model.

    The end of the text is held out: the fit is judged there, and `lens compare` judges there too.

    Args:
        out: The folder for the lens; an older lens there is replaced.
        ahead: Of a future lens: how many tokens later what it says would be said.
        steps: Of training a tuned or future lens; four sequences a step.
        prompts: Of a Jacobian lens: sequences whose Jacobians are averaged.
        probes: Of a Jacobian lens: random vectors a prompt, instead of every row of its Jacobian.
        length: Tokens that the model reads together; 128, or the model's context where that is shorter.
        seed: Of every random choice.
        figure: Save the figure of the fit to this .svg, .png or .pdf file.
    """
    check_folder(out, marker=_MARKER)
    loaded = loading.load(model)
    from digsite.lenses import fit_future, fit_jacobian, fit_tuned, save_lens

    text = halves(corpus, loaded, length=length, field=field)
    note(f"{loaded!r}\n{text.sequences:,} sequences of {text.learn.length} tokens to learn from; the end is held out")
    if kind == "jacobian":
        found = fit_jacobian(loaded, text.learn, prompts=prompts, probes=probes, seed=seed)
    elif kind == "tuned":
        found = fit_tuned(loaded, text.learn, text.held, steps=steps, seed=seed)
    else:
        found = fit_future(loaded, text.learn, text.held, ahead=ahead, steps=steps, seed=seed)
    save_lens(found, out)
    told = found.fit
    saved = {"folder": str(out), "figure": None if figure is None else str(figure)}
    if figure is not None:
        told.figure().save(figure)
    if json:
        about = {"verdict": told.verdict, "model": loaded.name, "lens": found.name, "text": dict(found.origin)}
        print_json(about | {"points": told.to_frame().to_dicts()} | origin(told) | saved)
        return
    _show_fit(told)
    print_saved(saved)


def _show_fit(told: "TunedFit | JacobianFit") -> None:
    frame = told.to_frame()
    numbers = [name for name in frame.columns if name not in ("point", "n")]
    table = columns("point", *(name.replace("_", " ") for name in numbers))
    for row in frame.to_dicts():
        table.add_row(row["point"], *(f"{row[name]:z.2f}" for name in numbers))
    table.caption = f"n = {frame['n'][0]}; " + ("KL in nats a token" if "kl" in numbers else "by length of the mean")
    for part in (told.verdict, "", table, "", spent(told)):
        answers().print(part)


@app.command
def compare(
    folders: Annotated[list[Path], Parameter(help="Folders of `lens fit`; the logit lens stands beside them.")],
    /,
    *,
    model: ModelName,
    corpus: Files,
    rows: Count = 64,
    seed: int = 0,
    field: Field = "text",
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """Which lens is nearest to the model, at every layer, on the same text that none was fitted on?

    Args:
        rows: Sequences to judge on.
        seed: Of every random choice.
    """
    saving.check()
    loaded = loading.load(model)
    from digsite.lenses import Lens, compare_lenses

    lenses = {folder.name or str(folder): _stored(folder, loaded) for folder in folders}
    if len(lenses) < len(folders) or "logit" in lenses:
        raise BadInput(explain("Lenses are told apart by the names of their folders", found=", ".join(lenses)))
    text, learned = _common(corpus, loaded, lenses, field=field)
    note(f"judged on {'the end of ' if learned else ''}{text.name}, which no lens was fitted on")
    found = compare_lenses(loaded, text, {"logit": Lens(loaded), **lenses}, learn=learned, rows=rows, seed=seed)
    table = found.to_frame().to_dicts()
    if saving.json:
        about = {"verdict": found.verdict, "model": loaded.name, "corpus": text.name, "tokens": found.tokens}
        area = dict(zip(found.lenses, found.area.tolist(), strict=True))
        print_json(about | {"area": area, "points": table} | origin(found) | saving.save(found))
        return
    shown = columns("lens", "point", "KL [95 %]", "bias", "top 1", "CE", "other", "const", "alone", left=2)
    for row in table:
        kl = estimate(row["kl"], row["low"], row["high"])
        each = (f"{row[name]:z.2f}" for name in ("bias", "agree", "ce", "null", "constant", "token_alone"))
        shown.add_row(row["lens"], row["point"], kl, *each)
    shown.caption = "KL to the model; other: on another token's stream; const, alone: answers without the stream; nats"
    for part in (found.verdict, "", shown, "", spent(found)):
        answers().print(part)
    print_saved(saving.save(found))


def _stored(folder: Path, model: "Model") -> "Lens":
    from digsite.lenses import load_lens

    return load_lens(folder, model)


def _common(
    corpus: list[Path], model: "Model", lenses: dict[str, "Lens"], *, field: str
) -> tuple["Corpus", "Corpus | None"]:
    """Text that no lens was fitted on, and what all were fitted on, if it is of the same files."""
    found = {name: unseen(corpus, model, lens.origin, field=field) for name, lens in lenses.items()}
    texts = {name: text.fingerprint for name, (text, _) in found.items()}
    if len(set(texts.values())) > 1:
        asked = f"{' and '.join(texts)} did not hold out the same part of this text"
        raise BadInput(explain(asked, do="fit them with one --length, or judge them on another text"))
    return next(iter(found.values()))
