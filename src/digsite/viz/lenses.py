"""The figures of lenses: how near to the model they are, how they were fitted, and what their maps read elsewhere."""

import numpy as np
from torch import Tensor

from digsite._core.figures import draws
from digsite._core.numerics import bootstrap_interval
from digsite.lenses import CausalAgreement, JacobianFit, LayerTransfer, LensComparison, TunedFit
from digsite.lenses.lens import point_names
from digsite.viz.axes import Axis
from digsite.viz.figure import Figure
from digsite.viz.heatmap import heatmap
from digsite.viz.lines import Line, lines


@draws(LensComparison)
def comparison_figure(result: LensComparison) -> Figure:
    """KL to the model over the layers, lens by lens, beside what says as much without the stream.

    Lenses that look ahead have another target and are left out, unless all look as far.
    """
    now = [i for i, ahead in enumerate(result.ahead) if ahead == min(result.ahead)]
    first = now[0]
    controls = [_flat("best constant answer", result.constant[first], len(result.sites))]
    if bool(result.alone[first].isfinite().all()):
        controls.append(_flat("token alone", result.alone[first], len(result.sites)))
    top = float(max(line.values.max() for line in controls))
    series = [_line(result.lenses[i], result.kl[i]) for i in now]
    far = [line.name for line in series if np.nanmax(line.values) > _TALL * top]
    cut = f" Above {_TALL:g} times the best constant answer lines are not drawn: {', '.join(far)}." if far else ""
    left = [name for i, name in enumerate(result.lenses) if i not in now]
    other = f" Not here, for they look ahead: {', '.join(left)}." if left else ""
    return lines(
        [*(_below(line, _TALL * top) for line in series), *controls],
        title="KL from the model to each lens (nats a token)",
        along=_depth(result.sites),
        unit="nats",
        n=result.kl.shape[2],
        caption=f"{result.verdict}.{cut}{other}",
        code=result.provenance.made_by,
    )


_TALL = 1.5
"""Lines higher than so many times the highest control would press all others to the ground."""


@draws(TunedFit)
def tuned_fit_figure(result: TunedFit) -> Figure:
    """KL on held-out text at each point, beside the logit lens and what the token alone says."""
    alone = _flat("token alone", result.alone, len(result.sites), control=True)
    start = _line("logit lens", result.start, control=True)
    return lines(
        [_line(result.lens, result.held), _below(start, 2 * float(alone.values.max())), alone],
        title="KL from the model, held-out text (nats a token)",
        along=_depth(result.sites),
        unit="nats",
        n=result.held.shape[1],
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(JacobianFit)
def jacobian_fit_figure(result: JacobianFit) -> Figure:
    """The likely error of each mean Jacobian, beside how far it is from the identity."""
    return lines(
        [
            Line("likely error", result.error.numpy().astype(float)),
            Line("distance from the identity", result.from_identity.numpy().astype(float), is_control=True),
        ],
        title="How settled the mean Jacobian is (by its length)",
        along=_depth(result.sites),
        unit="fraction",
        n=result.prompts,
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(LayerTransfer)
def transfer_figure(result: LayerTransfer) -> Figure:
    """What the map of one point (upward) loses at another (rightward), beside that point's own map."""
    names = [name.removeprefix("layer ") for name in point_names(result.sites)]
    loss = result.kl - result.kl.diagonal(dim1=0, dim2=1).T.unsqueeze(0)
    low, high = bootstrap_interval(loss.movedim(2, 0))
    return heatmap(
        loss.mean(2).numpy(),
        title="Lost with the map of another point (KL above the own map's, nats)",
        rows=Axis("map of layer", tuple(names)),
        columns=Axis("read at layer", tuple(names)),
        unit="nats",
        low=low.numpy(),
        high=high.numpy(),
        n=result.kl.shape[2],
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(CausalAgreement)
def agreement_figure(result: CausalAgreement) -> Figure:
    """Rank correlation of what matters to each lens with what matters to the model, beside the variance alone."""
    frame = result.to_frame()
    alone = len(result.lenses) == 1  # bands of several lenses would hide each other and the control
    series = []
    for lens in result.lenses:
        values, low, high = (frame.filter(lens=lens)[key].to_numpy() for key in ("agreement", "low", "high"))
        series.append(Line(lens, values, low if alone else None, high if alone else None))
    wide = float((frame["high"] - frame["low"]).median() / 2)  # pyright: ignore[reportArgumentType, reportOperatorIssue]
    control = frame.filter(lens=result.lenses[0])["variance"].to_numpy()
    return lines(
        [*series, Line("variance alone", control, is_control=True)],
        title="Do the same directions matter to lens and model? (rank correlation)",
        along=_depth(result.sites),
        unit="correlation",
        bounds=(0.0, 1.0),
        n=result.effect.shape[1],
        caption=f"{result.verdict}. The 95 % intervals over directions reach about {wide:.2f} to either side.",
        code=result.provenance.made_by,
    )


def _depth(sites: tuple[str, ...]) -> Axis:
    return Axis("layer", tuple(name.removeprefix("layer ") for name in point_names(sites)))


def _line(name: str, values: Tensor, *, control: bool = False) -> Line:
    low, high = bootstrap_interval(values.T)
    ends = (x.numpy().astype(float) for x in (values.mean(1), low, high))
    return Line(name, *ends, is_control=control)


def _flat(name: str, values: Tensor, count: int, *, control: bool = True) -> Line:
    return _line(name, values.expand(count, -1), control=control)


def _below(line: Line, top: float) -> Line:
    """The part of a line that is not too high to be drawn."""
    there = line.values <= top
    ends = (None if x is None else np.where(there, x, np.nan) for x in (line.values, line.low, line.high))
    return Line(line.name, *ends, is_control=line.is_control)  # pyright: ignore[reportArgumentType]
