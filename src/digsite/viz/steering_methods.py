"""The figures of directions that are trained, followed, carried between languages, or turned into text."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from digsite._core.figures import draws
from digsite._core.numerics import bootstrap_interval
from digsite.directions.steering.languages import LanguageTransfer, Readings
from digsite.directions.steering.stability import Stability
from digsite.directions.steering.to_prompt import PromptSearch
from digsite.directions.steering.trained import TRAINED, TrainedDirection
from digsite.viz.axes import Axis
from digsite.viz.estimate import Control, Estimate
from digsite.viz.figure import Figure
from digsite.viz.heatmap import heatmap
from digsite.viz.lines import Line, lines
from digsite.viz.strips import Strip, strips


@draws(TrainedDirection)
def trained_figure(result: TrainedDirection) -> Figure:
    """The effect of the trained vector at each length, beside what needed no training and beside chance."""
    series = []
    for name, effect in zip(result.judged, result.effects, strict=True):
        low, high = bootstrap_interval(effect.T)
        series.append(Line(name, effect.mean(1).numpy(), low.numpy(), high.numpy(), is_control=name != TRAINED))
    null = result.null.numpy()
    series.append(Line("random", null.mean(0), null.min(0), null.max(0), is_control=True))
    return lines(
        series,
        title="How much likelier the concept becomes (nats per token)",
        along=Axis("length", tuple(f"{length:g} × |x|" for length in result.lengths)),
        unit="nats",
        n=result.effects.shape[-1],
        caption=f"{result.verdict}. The band of random directions is their whole range.",
        code=result.provenance.made_by,
    )


@draws(LanguageTransfer)
def language_figure(result: LanguageTransfer) -> Figure:
    """What a direction of each language (row) does in each (column), and whether it is beyond chance."""
    rows = result.to_frame().to_dicts()
    size = len(result.languages)

    def square(key: str) -> np.ndarray:
        return np.array([row[key] for row in rows]).reshape(size, size)

    return heatmap(
        square("effect"),
        title="What a direction of one language (row) does in another (logits)",
        rows=Axis("from", result.languages),
        columns=Axis("to", result.languages),
        unit="logits",
        low=square("effect_low"),
        high=square("effect_high"),
        n=rows[0]["n"],
        names=[[f"{a} in {b}" for b in result.languages] for a in result.languages],
        outlined=square("effect_low") > square("null_effect_max"),
        outline_name="beyond every random direction of that length",
        null=Control(float(result.null_effects.min()), float(result.null_effects.max()), "random directions"),
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(Readings)
def readings_figure(result: Readings) -> Figure:
    """The preference of each sentence, by itself, with the direction, and with random ones."""
    sentences = [f"sentence {at}" for at in range(len(result.plain))]
    several = (("with the direction", result.steered), ("by itself", result.plain), ("random", result.null.mean(0)))
    rows = []
    for name, values in several:
        low, high = bootstrap_interval(values)
        estimate = Estimate(name, float(values.mean()), float(low), float(high))
        rows.append(Strip(estimate, values.numpy(), sentences, is_control=name != "with the direction"))
    return strips(
        rows,
        title="Preference for the first reading (nats per token), each point a sentence",
        unit="nats",
        reference=("no preference", 0.0),
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(Stability)
def stability_figure(result: Stability) -> Figure:
    """Cosine and read-out over the models: what moves, and what stays."""
    size = len(result.models)
    bound = np.full(size, result.null_cosine)
    series = [
        Line("cosine with the first", result.cosines.numpy()),
        _read_out("AUROC, its own", result.own),
        _read_out("AUROC, the first's", result.first),
        Line("random pairs", 0 * bound, -bound, bound, is_control=True),
    ]
    return lines(
        series,
        title="The direction in each model: cosine, and how well it reads (AUROC)",
        along=Axis("model", result.models),
        unit="",
        n=result.own_effect.shape[1],
        caption=f"{result.verdict}. The grey band holds 95 % of the cosines of random pairs.",
        code=result.provenance.made_by,
    )


def _read_out(name: str, found: Float[Tensor, "point 3"]) -> Line:
    value, low, high = found.numpy().T
    return Line(name, value, low, high)


@draws(PromptSearch)
def prompt_figure(result: PromptSearch) -> Figure:
    """How far the model with each text is from the steered one."""
    prompts = [f"prompt {at}" for at in range(result.kl.shape[1])]
    rows = []
    for name, kl in zip(result.judged, result.kl, strict=True):
        low, high = bootstrap_interval(kl)
        text = {"found": f"found: {result.text}", "best word": f"best word: {result.word}"}.get(name, name)
        estimate = Estimate(text, float(kl.mean()), float(low), float(high))
        rows.append(Strip(estimate, kl.numpy(), prompts, is_control=name != "found"))
    low, high = bootstrap_interval(result.null)
    draws_ = [f"draw {at}" for at in range(len(result.null))]
    null = Estimate("random prefixes", float(result.null.mean()), float(low), float(high))
    rows.append(Strip(null, result.null.numpy(), draws_, is_control=True))
    return strips(
        rows,
        title="Distance from the steered model (KL in nats), each point a held-out prompt",
        unit="nats",
        caption=f"{result.verdict}. For random prefixes a point is the mean of one prefix over the prompts.",
        code=result.provenance.made_by,
    )
