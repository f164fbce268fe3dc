"""The figures and the page of a steer card: effect against cost, and both over the coefficient."""

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes as Plot

from digsite._core.errors import BadInput, explain
from digsite._core.figures import draws
from digsite._core.numerics import bootstrap_interval
from digsite.directions.steering import Selection, SteerCard
from digsite.viz.axes import Axis, Scale, scale_for
from digsite.viz.canvas import Canvas, drawing, title_lines
from digsite.viz.figure import Figure
from digsite.viz.labels import spread, widest, wrap
from digsite.viz.lines import Line, lines
from digsite.viz.numbers import number, span
from digsite.viz.page import Report, Section
from digsite.viz.scatter import Dot, scatter
from digsite.viz.table import Chip, data_table
from digsite.viz.theme import LIGHT

WIDTH, HEIGHT, LEAD, ROW = 380.0, 260.0, 26.0, 16.0
LEAST = 1e-4
"""A KL below this is drawn there."""


@draws(SteerCard)
@drawing()
def steer_figure(card: SteerCard) -> Figure:
    """What each coefficient brings against what it costs; the grey points are as large and in random directions."""
    frame = card.to_frame().filter(pl.col("finite"))
    rows = frame.to_dicts()
    random = _random_points(card)
    ends = [end for row in rows for end in (row["effect"], row["low"], row["high"]) if end is not None]
    height = scale_for([0.0, *ends, *(y for _, _, y in random)], unit="")
    across = _powers([row["kl"] for row in rows] + [x for _, x, _ in random])
    left = widest(height.labels) + 12
    names = [_name(row["coefficient"]) + (" chosen" if row["chosen"] else "") for row in rows]
    title = f"What each coefficient (unit: {card.unit}) brings, against what it costs"
    heading, title_height = title_lines(title, left + WIDTH)
    upward = wrap(f"effect on {card.target} ({card.effect_unit})", left + WIDTH)
    top = title_height + 16.0 * len(upward) + 22
    tall = max(HEIGHT, ROW * len(rows))
    foot = top + tall
    canvas = Canvas(left + WIDTH + LEAD + max(widest(names), widest(["random directions"])), foot + 62)
    canvas.title(heading, title_height)
    for at, line in enumerate(upward):
        canvas.text(0, title_height + 8 + 16 * at, line, colour=LIGHT.soft)
    plot = canvas.plot(left, top, WIDTH + LEAD, tall, x=(0, WIDTH + LEAD), y=(tall, 0))
    _grid(canvas, plot, height, across, (left, top, tall))
    cost = "KL to the unsteered model on neutral prompts (nats a token)"
    canvas.text(left + WIDTH / 2, foot + 32, cost, colour=LIGHT.soft, across="center")
    (key,) = canvas.plot(left, foot + 47, 10, 10).plot([5], [5], marker="s", markersize=4.5, color=LIGHT.null)
    key.set(markeredgewidth=0, clip_on=False)
    canvas.text(left + 14, foot + 52, "equally large changes in random directions", colour=LIGHT.soft)
    for text, x, y in random:
        (point,) = plot.plot([_x(across, x)], [height.place(y, tall, -tall)], marker="s", markersize=4.5, zorder=2)
        point.set(color=LIGHT.null, markeredgewidth=0, clip_on=False)
        canvas.mark(point, text)
    _allowed(canvas, plot, card, across, (left, top, tall))
    wanted = [height.place(row["effect"], tall, -tall) for row in rows]
    places = spread(wanted, ROW - 1, 0.0, tall)
    for row, text, y, place in zip(rows, names, wanted, places, strict=True):
        x = _x(across, row["kl"])
        plot.plot([x, WIDTH + 6, WIDTH + LEAD - 6], [y, place, place], color=LIGHT.line, linewidth=0.8, zorder=1)
        if row["low"] is not None:
            bar = [height.place(row[end], tall, -tall) for end in ("low", "high")]
            plot.plot([x] * 2, bar, color=LIGHT.mark, linewidth=2, zorder=3, clip_on=False)
        (point,) = plot.plot([x], [y], marker="o", markersize=11 if row["chosen"] else 8, zorder=4, clip_on=False)
        edge = LIGHT.ink if row["chosen"] else LIGHT.card
        point.set(color=LIGHT.mark, markeredgecolor=edge, markeredgewidth=1.6 if row["chosen"] else 1.2)
        canvas.mark(point, _hover(card, row))
        canvas.text(left + WIDTH + LEAD, top + place, text, bold=row["chosen"])
    control = pl.DataFrame(random, schema={"name": pl.String, "kl": float, "effect": float}, orient="row")
    shown = frame.select(pl.format("{}", "coefficient").alias("name"), "kl", "effect", "low", "high")
    return Figure(
        title=title,
        caption=f"{card.verdict}.{_left_out(card)}",
        data=pl.concat([shown, control], how="diagonal"),
        code=card.provenance.made_by,
        canvas=canvas,
    )


def steer_curve(card: SteerCard, measure: str = "effect") -> Figure:
    """Effect, loss or distinctness over the coefficient, beside random directions.

    Args:
        card: A steer card.
        measure: "effect" on the target, "loss" on plain text, or "distinct", the share of different bigrams.

    Raises:
        BadInput: Another measure.
    """
    frame = card.to_frame()
    grid = frame["coefficient"].to_numpy()
    middle = int((grid < 0).sum())
    labels = np.insert([_name(c) for c in grid], middle, "0").tolist()
    along = Axis("coefficient", tuple(labels), is_named=True)

    def line(values: np.ndarray, start: float) -> np.ndarray:
        return np.insert(values.astype(float), middle, start)

    def column(name: str, start: float) -> np.ndarray:
        return line(frame[name].to_numpy(), start)

    if measure == "effect":
        mean = card.random_reported.mean(0).numpy()
        control = Line(
            "random directions",
            line(mean, 0.0),
            column("random_least", 0.0),
            column("random_most", 0.0),
            is_control=True,
        )
        series = [Line("this direction", column("effect", 0.0), column("low", 0.0), column("high", 0.0)), control]
        what, unit = f"Effect on {card.target}, in {card.effect_unit}", ""
    elif measure == "loss":
        added = (card.loss - card.plain_loss)[:, card.plain_loss.isfinite()]
        low, high = bootstrap_interval(added.T)
        own = Line("this direction", column("loss_added", 0.0), line(low.numpy(), 0.0), line(high.numpy(), 0.0))
        series = [own, Line("random directions", column("random_loss_added", 0.0), is_control=True)]
        what, unit = "Loss added on plain text, in nats a token", ""
    elif measure == "distinct":
        plain = float(card.plain_distinct.mean())
        series = [
            Line("steered", column("distinct", plain)),
            Line("unsteered", np.full(len(grid) + 1, plain), is_control=True),
        ]
        what, unit = "Different bigrams in what the model writes", "share"
    else:
        raise BadInput(explain(f"A card has no curve of {measure!r}", possible=("effect", "loss", "distinct")))
    return lines(
        series,
        title=f"{what}, over the coefficient in units of {card.unit}",
        along=along,
        unit=unit,
        n=card.reported.shape[1] if measure == "effect" else None,
        caption="Grey: equally large changes in random directions, from the least to the largest."
        if measure == "effect"
        else "",
        code=card.provenance.made_by,
    )


_PARTS = (
    ("coefficient", "effect", "low", "high", "wrong_way", "random_least", "random_most", "chosen", "front", "finite"),
    ("coefficient", "kl", "kl_low", "kl_high", "random_kl", "loss_added", "random_loss_added", "distinct"),
)
"""What it brings and what it costs: all columns together are wider than a page."""


def steer_report(card: SteerCard) -> Report:
    """The page of a steer card: verdict, effect against cost, curves, what the model writes, and the table."""
    made, spent, frame = card.provenance, card.cost, card.to_frame()
    failures = [Chip(failure, "bad") for failure in card.failures]
    stood = () if failures or card.chosen is None else (Chip("stands against random directions", "good"),)
    none = () if card.chosen is not None else (Chip("no coefficient is cheap enough", "bad"),)
    wrote = [f"`{start}` unsteered: `{plain}`; steered: `{steered}`" for start, plain, steered in card.samples] or [
        "Nothing was written."
    ]
    curves = [steer_curve(card, "effect"), steer_curve(card, "loss")]
    if card.distinct.shape[1] and bool(card.distinct.isfinite().any()):
        curves.append(steer_curve(card, "distinct"))
    return Report(
        kind="Steer card",
        title=f"What does steering with {card.steered} do, and what does it cost?",
        verdict=card.verdict + ".",
        meta=(
            f"{card.effect.shape[1]} prompts, {card.kl.shape[1]} neutral",
            f"{len(card.random_effect)} random directions",
            f"{spent.seconds:.0f} s",
            made.created[:10],
        ),
        sections=(
            Section(
                title="What does it bring, and what does it cost?",
                chips=(*stood, *none, *failures),
                body=(card.figure(),),
            ),
            Section(title="Is more always more?", chips=(_monotone(card),), body=tuple(curves)),
            Section(title="Which tokens are written?", body=(*card.at.split("\n"), "In brackets: steered.")),
            Section(title="What does the model write?", body=tuple(wrote)),
            Section(
                title="Every coefficient",
                body=tuple(data_table(frame.select(part), most=len(frame)) for part in _PARTS),
            ),
        ),
        cost=(f"{spent.forwards:,} forward passes", f"{spent.cpu_seconds:.0f} s of processor time"),
        command=made.made_by,
        provenance={key: str(value) for key, value in made.to_dict().items() if value is not None and key != "made_by"},
    )


@draws(Selection)
def selection_figure(result: Selection) -> Figure:
    """Every candidate: what ablating it leaves of the behaviour, against what that costs."""
    frame = result.to_frame().to_dicts()
    dots = []
    for row in frame:
        name = f"{row['site']} at {row['position']}" + (f" ({row['dropped']})" if row["dropped"] else "")
        dots.append(Dot(name, max(row["kl"], LEAST), row["ablated"], is_control=bool(row["dropped"])))
    return scatter(
        dots,
        title=f"What ablating each candidate leaves of {result.target}, against what it costs",
        across="KL on prompts without the behaviour (nats)",
        upward="log odds that are left (nats)",
        unit="",
        caption=f"{result.verdict}. Grey: dropped.",
        code=result.provenance.made_by,
    )


def _random_points(card: SteerCard) -> list[tuple[str, float, float]]:
    """Every random direction at every coefficient: what it is called, its KL, its effect."""
    found = []
    for draw, (effects, costs) in enumerate(zip(card.random_reported.tolist(), card.random_kl.tolist(), strict=True)):
        for c, effect, cost in zip(card.coefficients.tolist(), effects, costs, strict=True):
            if math.isfinite(effect) and math.isfinite(cost):
                told = f"random direction {draw} at {_name(c)}: effect {number(effect)}, KL {number(cost)}"
                found.append((told, cost, effect))
    return found


def _powers(values: Sequence[float]) -> Scale:
    """A logarithmic scale over costs, in powers of ten."""
    low = math.floor(math.log10(max(LEAST, min(values))))
    high = max(low + 1, math.ceil(math.log10(max(LEAST, *values))))
    steps = tuple(10.0**power for power in range(low, high + 1))
    return Scale(float(low), float(high), steps, tuple(f"{step:g}" for step in steps))


def _x(scale: Scale, value: float) -> float:
    return scale.place(math.log10(max(LEAST, value, 10.0**scale.low)), 0.0, WIDTH)


def _grid(canvas: Canvas, plot: Plot, height: Scale, across: Scale, place: tuple[float, float, float]) -> None:
    left, top, tall = place
    for step, label in zip(height.steps, height.labels, strict=True):
        y = height.place(step, tall, -tall)
        plot.plot([0, WIDTH], [y] * 2, color=LIGHT.line, linewidth=1.6 if step == 0 else 0.9, zorder=0, clip_on=False)
        canvas.text(left - 10, top + y, label, colour=LIGHT.soft, across="right")
    for step, label in zip(across.steps, across.labels, strict=True):
        canvas.text(left + _x(across, step), top + tall + 14, label, colour=LIGHT.soft, across="center")


def _allowed(canvas: Canvas, plot: Plot, card: SteerCard, across: Scale, place: tuple[float, float, float]) -> None:
    """The cost up to which a coefficient may be chosen."""
    left, top, tall = place
    x = _x(across, card.most_kl)
    if 0 < x <= WIDTH:
        plot.plot([x, x], [-6, tall], color=LIGHT.soft, linewidth=1, linestyle=(0, (3, 3)), zorder=1, clip_on=False)
        across_ = "right" if x > WIDTH / 2 else "left"
        canvas.text(left + x, top - 14, f"at most {card.most_kl:g} to be chosen", colour=LIGHT.soft, across=across_)


def _hover(card: SteerCard, row: dict[str, float]) -> str:
    told = f"{_name(row['coefficient'])} {card.unit}: effect {number(row['effect'])} {card.effect_unit}"
    if row["low"] is not None:
        told += f" (95 %: {span(row['low'], row['high'])})"
    return f"{told}, KL {number(row['kl'])}, loss {number(row['loss_added'])}, n = {card.reported.shape[1]}"


def _left_out(card: SteerCard) -> str:
    return "" if bool(card.finite.all()) else " Coefficients that make logits NaN or infinite are not drawn."


def _monotone(card: SteerCard) -> Chip:
    known = card.monotone
    return Chip(f"Spearman {known:.2f}", "open" if math.isnan(known) else "good" if known >= 0.9 else "bad")


def _name(coefficient: float) -> str:
    return f"{coefficient:+g}".replace("-", "−")
