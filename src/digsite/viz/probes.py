"""The figures of probes: where a label can be read, one probe beside its controls, and where a model thinks it is."""

import numpy as np

from digsite._core.figures import draws
from digsite._core.numerics import wilson_interval
from digsite._core.visible import visible
from digsite.directions.probes import PositionSubspace, ProbeResult, ProbeSweep
from digsite.sites import Site
from digsite.viz.axes import Axis
from digsite.viz.estimate import Estimate
from digsite.viz.figure import Figure
from digsite.viz.heatmap import heatmap
from digsite.viz.lines import Line, lines
from digsite.viz.methods import control, placed
from digsite.viz.null_histogram import null_histogram

CHANCE = 0.5


@draws(ProbeSweep)
def sweep_figure(result: ProbeSweep) -> Figure:
    """Where a label can be read: layers upward, positions rightward, and how far the AUROC is above that of a coin."""
    frame = result.to_frame()
    sites, places = (list(dict.fromkeys(names)) for names in (result.sites, result.places))
    above = frame.select(*(frame[name] - CHANCE for name in ("auroc", "low", "high")))
    names = [f"{site} at {place}" for site, place in zip(result.sites, result.places, strict=True)]
    at = placed(above, list(zip(result.sites, result.places, strict=True)), names, sites, places)
    tokens = [_tick(*one) for one in zip(places, result.shown, strict=True)]
    best, chosen = result.best, result.best.cell
    outlined = at.values != at.values
    outlined[sites.index(result.sites[chosen]), places.index(result.places[chosen])] = True
    return heatmap(
        at.values,
        title=f"AUROC above {CHANCE}, {result.label}",
        rows=Axis("layer", tuple(_row(site) for site in sites)) if _one_a_layer(sites) else Axis("site", tuple(sites)),
        columns=Axis("position", tuple(tokens), tokens=True),
        unit="",
        low=at.low,
        high=at.high,
        n=len(result.labels),
        names=at.names,
        outlined=outlined,
        outline_name=f"chosen; {best.auroc:.2f} where judged",
        null=control(result.null - CHANCE, "95 % of shuffled labels") if result.null.numel() else None,
        caption=f"Held-out texts. {result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(ProbeResult)
def probe_figure(result: ProbeResult) -> Figure:
    """One probe against the same fit on shuffled labels, and random directions."""
    own, *controls = result.to_frame().to_dicts()
    return null_histogram(
        result.shuffled.numpy(),
        Estimate(f"{result.fit} probe", own["auroc"], own["low"], own["high"]),
        title=f"AUROC on held-out examples, {result.label}",
        unit="AUROC",
        null_name=f"{len(result.shuffled)} shuffled labels",
        references={"random direction": controls[-1]["auroc"]} if controls else None,
        n=len(result.labels),
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(PositionSubspace)
def position_figure(result: PositionSubspace) -> Figure:
    """How often each position is read from its subspace, and from random ones of as many dimensions."""
    ends = [wilson_interval(int(one.sum()), len(one)) for one in result.right.T]
    low, high = np.array(ends).T
    random = result.right_random.numpy()
    return lines(
        [
            Line("subspace of position", result.right.double().mean(0).numpy(), low, high),
            Line("random subspaces", random.mean(0), *np.quantile(random, [0.025, 0.975], axis=0), is_control=True),
        ],
        title=f"Positions read from {len(result.basis)} dimensions at {result.site}",
        along=Axis("position", tuple(str(place + 1) for place in range(result.right.shape[1]))),
        unit="fraction",
        bounds=(0.0, 1.0),
        n=len(result.right),
        caption=f"Held-out texts. {result.verdict}.",
        code=result.provenance.made_by,
    )


def _one_a_layer(sites: list[str]) -> bool:
    """Whether the sites are one kind at several layers, after the embedding at most."""
    kinds = {(site.name, site.head) for site in map(Site.parse, sites) if site.layer is not None}
    return len(kinds) == 1 and all(Site.parse(site).layer is not None for site in sites[1:])


def _row(site: str) -> str:
    layer = Site.parse(site).layer
    return site if layer is None else str(layer)


def _tick(place: str, token: str) -> str:
    """A position with its token, where all texts have the same there; or the name of a place."""
    return f"{place} {visible(token)}" if place.lstrip("-").isdigit() else place
