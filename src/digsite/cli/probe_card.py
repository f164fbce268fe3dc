"""`digsite probe card` and `digsite probe monitor`: what speaks against a probe, and how often its direction fires."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from digsite._core.errors import BadInput, explain
from digsite.cli.inputs import AS_STORED, AS_USUAL, Count, Examples, Loading, ModelName, TaskName
from digsite.cli.outputs import (
    NOWHERE,
    Saving,
    answers,
    columns,
    estimate,
    origin,
    path_text,
    print_json,
    print_saved,
    spent,
)
from digsite.cli.probe import Fit, OwnTexts

if TYPE_CHECKING:
    from digsite import Model
    from digsite.directions import Direction
    from digsite.directions.probes import LabelledPrompts

PIECE = 128
"""Tokens in a row of neutral text."""


def card(
    *,
    model: ModelName,
    site: str,
    task: TaskName | None = None,
    texts: OwnTexts = None,
    yes: str | None = None,
    also: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    neutral: Path | None = None,
    rate: float = 0.01,
    at: int = -1,
    fit: Fit = "logistic",
    page: Annotated[Path | None, Parameter(validator=validators.Path(ext=("html",)))] = None,
    examples: Examples = AS_USUAL,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """What is a probe worth? Held-out and other texts, baselines, controls, and what the model does without it.

    Args:
        site: Where it reads: one address, such as layers.2.resid_post.
        yes: The label of your texts that is meant by yes, where there are more than two.
        also: Further files of texts with labels of the same meaning, to judge the same probe on.
        neutral: A text file, for the rate of false positives.
        rate: The rate of false positives at which recall is given.
        at: The position that is read; -1 is the last token.
        fit: How the probe is fitted.
        page: Write the card as an HTML page, too.
    """
    saving.check()
    if (task is None) == (texts is None):
        asked = "A probe is fitted on the prompts of a task, or on texts of your own"
        raise BadInput(explain(asked, do="give either --task or --texts"))
    ask = None if task is None else examples.of(task)
    behave = None if task is None else replace(examples, seed=examples.seed + 1).of(task)
    loaded = loading.load(model)
    from digsite.directions.probes import LabelledPrompts, probe_card
    from digsite.directions.texts import by_answer
    from digsite.tasks import Corpus

    if ask is not None:
        prompts = LabelledPrompts(**by_answer(ask(loaded))._asdict(), at=at)
    else:
        assert texts is not None
        prompts = _own(loaded, texts, yes, at)
    found = probe_card(
        loaded,
        prompts,
        site,
        fit=fit,
        others=[replace(_own(loaded, path, yes, at), name=path.stem) for path in also or []],
        neutral=None if neutral is None else Corpus.read(neutral, loaded, length=min(PIECE, loaded.n_ctx or PIECE)),
        rate=rate,
        behaviour=None if behave is None else behave(loaded),
        seed=examples.seed,
    )
    if page is not None:
        from digsite.viz import probe_card_report

        probe_card_report(found).write(page)
    rows = found.to_frame().to_dicts()
    if saving.json:
        about = {"verdict": found.verdict, "model": loaded.name, "label": found.direction.name, "fit": fit}
        causal = None if found.causal is None else found.causal.to_frame().to_dicts()
        measured = {"failures": found.failures(), "threshold": found.threshold, "rows": rows, "causal": causal}
        print_json(
            about | measured | origin(found) | saving.save(found) | {"page": None if page is None else str(page)}
        )
        return
    table = columns("by", "on", "AUROC [95 %]", "accuracy", "recall", "n", left=2)
    for row in rows:
        recall = "" if row["recall"] is None else f"{row['recall']:.2f}"
        numbers = (estimate(row["auroc"], row["low"], row["high"]), f"{row['accuracy']:.2f}", recall, str(row["n"]))
        table.add_row(row["by"], row["set"], *numbers)
    table.caption = f"recall at {rate:.0%} false positives on neutral text"
    out = answers()
    for part in (found.verdict, "", table, "", spent(found)):
        out.print(part)
    print_saved(saving.save(found) | {"page": path_text(page)})


def monitor(
    *,
    model: ModelName,
    direction: Path,
    text: Path,
    tokens: Annotated[int, Parameter(validator=validators.Number(gte=2))] = 40,
    prompt_tokens: Annotated[int, Parameter(validator=validators.Number(gte=2))] = 12,
    n: Count = 200,
    temperature: float = 1.0,
    level: float | None = None,
    within: Count = 1000,
    seed: int = 0,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """How probable is it that a direction fires while the model writes? Its readings, and their tail.

    Args:
        direction: A folder with a probe card, or with one direction.
        text: A text file; the model goes on from the beginning of each paragraph.
        tokens: Most tokens that it writes each time.
        prompt_tokens: Tokens of a paragraph that it goes on from.
        n: Paragraphs.
        temperature: Of the draw of each token.
        level: The reading that counts as firing; the largest that was seen unless given.
        within: Within how many tokens.
        seed: Of the draws and of the split.
    """
    saving.check()
    loaded = loading.load(model)
    from digsite.directions import probes
    from digsite.models import Sampling
    from digsite.tasks import Corpus

    prompts = next(iter(Corpus.read(text, loaded, length=prompt_tokens, packed=False, rows=n).batches(n)))
    sample = Sampling(temperature=temperature, seed=seed)
    found = probes.monitor(loaded, _direction(direction), prompts, new=tokens, sample=sample, seed=seed)
    fires = None
    if found.choice is not None:
        seen = float(found.readings[found.fitted].nan_to_num(float("-inf")).max())
        high = seen if level is None else level
        fires = dict(zip(("probability", "low", "high"), found.probability(high, within), strict=True))
        fires |= {"level": high, "within": within}
    check = [] if found.choice is None else found.check().to_dicts()
    if saving.json:
        about = {"verdict": found.verdict, "model": loaded.name, "fires": fires, "held_out": check}
        print_json(about | {"thresholds": found.to_frame().to_dicts()} | origin(found) | saving.save(found))
        return
    out = answers()
    out.print(found.verdict)
    if fires is not None:
        numbers = estimate(fires["probability"], fires["low"], fires["high"])
        out.print(f"\nabove {fires['level']:.2f} within {within:,} tokens: probability {numbers}\n")
        table = columns("level", "predicted", "observed", "normal", "as predicted", left=0)
        for row in check:
            shares = (f"{row[name]:.3f}" for name in ("predicted", "observed", "normal"))
            table.add_row(f"{row['level']:.2f}", *shares, "yes" if row["within"] else "no")
        table.caption = f"share of {check[0]['n']} held-out sequences that exceed a level" if check else None
        out.print(table)
    out.print(f"\n{spent(found)}")
    print_saved(saving.save(found))


def _own(model: "Model", file: Path, yes: str | None, at: int) -> "LabelledPrompts":
    from digsite.directions.probes import LabelledPrompts
    from digsite.directions.texts import own_texts

    return LabelledPrompts(**own_texts(model, file, yes=yes)._asdict(), at=at)


def _direction(folder: Path) -> "Direction":
    from digsite.directions import load_direction
    from digsite.directions.probes import ProbeCard

    return ProbeCard.load(folder).direction if (folder / "result.json").is_file() else load_direction(folder)
