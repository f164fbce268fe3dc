"""The page of where something is represented: read, used, steered with, carried over, in a sceptic's order."""

from pathlib import PurePath

from digsite._core.figures import draws
from digsite.investigations import WhereInvestigation
from digsite.viz.investigation import claims_section
from digsite.viz.page import Report, Section
from digsite.viz.probe_cards import scarcity_figure
from digsite.viz.steering import steer_curve
from digsite.viz.table import Chip


@draws(WhereInvestigation)
def where_report(result: WhereInvestigation) -> Report:
    """The page of an investigation of where something is represented."""
    cost, made = result.cost, result.provenance
    name = PurePath(result.model).name if result.model.startswith("/") else result.model
    return Report(
        title=result.question,
        verdict=f"{result.verdict[0].upper()}{result.verdict[1:]}.",
        meta=(
            f"`{name}`",
            f"task {result.task.name}",
            f"{result.task.examples} examples, of which {result.selection} chose the place",
            f"told apart by {_APART[result.by]}",
            f"{cost.seconds:.0f} s",
            made.created[:10],
        ),
        sections=(
            _sweep(result),
            _card(result),
            _causal(result),
            _steer(result),
            _transfer(result),
            claims_section(
                result.claims(),
                "The null is, in turn: the best cell of shuffled labels (95 %); the best of shuffled labels and random "
                "directions; the best baseline; the most that an equal change in a random direction takes; the most "
                "that a random direction moves; random directions (95 %).",
            ),
        ),
        cost=(
            f"{cost.forwards:,} forward passes of {cost.rows:,} rows",
            f"{cost.backwards:,} backward",
            f"{cost.seconds:.0f} s ({cost.cpu_seconds:.0f} s of processor time)",
            f"peak memory {cost.peak_mb:,.0f} MB",
        ),
        command=made.made_by,
        provenance={key: str(value) for key, value in made.to_dict().items() if value is not None and key != "made_by"},
    )


_APART = {"answer": "the answer they ask for", "clean": "whether they are clean, for want of two answers"}


def _sweep(result: WhereInvestigation) -> Section:
    chosen = result.claims()[0]
    cells = f"{result.as_good} of the {len(result.sweep.sites) - 1} other cells read as well"
    return Section(
        title="Where can it be read?",
        chips=(_chip(f"AUROC {chosen.effect:.2f}", good=chosen.supported), Chip(cells, "open")),
        body=(
            result.sweep.figure(),
            "The chosen cell is the first of those that read best on one part of the held-out texts. Where prompts "
            "differ in a word, that word is read perfectly from the first layer on.",
        ),
    )


def _card(result: WhereInvestigation) -> Section:
    failed = [Chip(text, "bad") for text in result.card.failures()]
    return Section(
        title="Does the reading stand up on examples that did not choose the place?",
        chips=tuple(failed) or (Chip("stands up to every control", "good"),),
        body=(result.card.figure(), scarcity_figure(result.card)),
    )


def _causal(result: WhereInvestigation) -> Section:
    used = result.causal.is_used
    return Section(
        title="Does the model use it?",
        chips=(_chip("used" if used else "no more than a random direction", good=used),),
        body=(
            result.causal.figure(),
            f"At {result.site}, position {result.place}, every prompt is given the same reading, and the task's metric "
            "is measured. The probe was not fitted on these prompts.",
        ),
    )


def _steer(result: WhereInvestigation) -> Section:
    steered = result.claims()[4]
    failed = [Chip(text, "bad") for text in result.steer.failures]
    return Section(
        title="Does adding it steer, and at what cost?",
        chips=(_chip("steers" if steered.supported else "not shown to steer", good=steered.supported), *failed),
        body=(
            result.steer.figure(),
            steer_curve(result.steer, "effect"),
            "The direction is read at one position; it is added at every token, as one would steer with it. "
            f"The cost is measured on {result.neutral}.",
        ),
    )


def _transfer(result: WhereInvestigation) -> Section:
    title = "Does it carry over to other wording or another language?"
    if result.transfer is None:
        do = "No other set was given: `--others` on the command line, `others=` in Python."
        return Section(title=title, chips=(Chip("not tried", "open"),), body=(do,))
    carried = result.claims()[5:]
    chips = tuple(_chip(f"{claim.claim}: {claim.effect:.2f}", good=claim.supported) for claim in carried)
    return Section(title=title, chips=chips, body=(result.transfer.figure(),))


def _chip(text: str, *, good: bool) -> Chip:
    return Chip(text, "good" if good else "bad")
