"""The tuned lens: at each point of the stream the affine map after which the readout says what the model will say.

1. Means and products over the whole text give, for each point, the linear map whose result is nearest to the last
   stream (ridge regression). That is where training starts: it costs one pass and is better than no map.
2. A correction to that map is trained, in coordinates in which the stream varies alike in all directions, so that one
   rate serves all: Adam on the divergence KL(model ‖ lens), in nats. A step takes tokens from everywhere in a pool of
   some rows of text, because neighbours are too alike; all points learn from the same.
3. At some steps it is judged on text that was held out; nothing is chosen by that.
4. Map and correction become one change and one bias: h + C h + b. The last point has none: it is the model.

A future lens is the same with the target so many tokens later (`fit_future`); there the last point has a map too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import count_backward, measure
from digsite._core.errors import BadInput, NotFinite, explain
from digsite._core.progress import track
from digsite.lenses.bigram import count_bigrams
from digsite.lenses.fits import TunedFit
from digsite.lenses.lens import Affine, Kind, Lens, carried, stream_points
from digsite.lenses.moments import Moments
from digsite.lenses.passages import learned, log_probs, passages
from digsite.models import Model, Tokens, made_by
from digsite.models.prediction import kl
from digsite.tasks import Corpus

_LOOKS = 5
"""How often training is judged on held-out text."""
_POOL = 16
"""Steps that take their tokens from one pool."""
_BETAS = (0.9, 0.99)


def fit_tuned(
    model: Model,
    corpus: Corpus,
    held_out: Corpus,
    *,
    steps: int = 400,
    batch: int = 4,
    rate: float = 0.003,
    bias: bool = True,
    judged_rows: int = 16,
    seed: int = 0,
) -> Lens:
    """A lens that was trained to say, from the stream at any point, what the model will say.

    Args:
        model: The model.
        corpus: What is learned from; it is read as often as the steps need.
        held_out: What the fit is judged on; `corpus.split(rows)` makes both.
        steps: Steps of training.
        batch: Rows of text in a step.
        rate: Of Adam, falling to nothing; in units of the last stream's size.
        bias: Whether the map adds a constant.
        judged_rows: Rows of the held-out text that are used.
        seed: Of the order in which tokens are learned from.

    Returns:
        The lens; `lens.fit` says how far from the model it is on the held-out text, beside the logit lens and what the
        token alone says.

    Raises:
        BadInput: Too little text, the two texts are the same, or a number that is none.
        NotFinite: The model says a NaN, or training ran away.

    Units: nats per token.

    Source:
        Belrose et al. 2023, "Eliciting latent predictions from transformers with the tuned lens" (arXiv:2303.08112),
        section 3. Ours starts at the ridge regression and trains in whitened coordinates, which takes some hundred
        thousand tokens where theirs takes tens of millions.

    Caveats:
        It says what *can* be read by an affine map that was trained to: it may compute what the model has not yet.
        The BOS is left out of the fit, for its stream is of another size.
    """
    call = f"digsite.lenses.fit_tuned(model, corpus, held_out, steps={steps}, batch={batch}, rate={rate}, bias={bias})"
    wanted = Fitting("tuned", 0, steps, batch, rate, bias, judged_rows, seed)
    return fitted(model, corpus, held_out, wanted, call)


@dataclass(frozen=True)
class Fitting:
    """What is fitted, and how; see `fit_tuned` and `fit_future`."""

    kind: Kind
    ahead: int
    steps: int
    batch: int
    rate: float
    bias: bool
    judged_rows: int
    seed: int


def fitted(model: Model, corpus: Corpus, held_out: Corpus, how: Fitting, call: str) -> Lens:
    """A tuned or a future lens; see `fit_tuned` and `fit_future`.

    Args:
        model: The model.
        corpus: What is learned from.
        held_out: What the fit is judged on.
        how: What is fitted.
        call: The call that makes it again.
    """
    _check(corpus, held_out, how)
    points = stream_points(model)
    sites = points if how.ahead else points[:-1]
    text = next(held_out.batches(how.judged_rows))
    with measure() as cost:
        moments = _moments(model, corpus, sites, how)  # 1.
        maps = {site: _Map(moments[site], bias=how.bias) for site in sites}
        steps, curve = _trained(model, corpus, text, maps, how)  # 2. and 3.
        affine = {site: one.affine() for site, one in maps.items()}  # 4.
        lens = Lens(model, how.kind, affine, points, how.ahead)
        held, start = (_judged(model, text, each, sites, how) for each in (lens, Lens(model)))
        alone = _alone(model, corpus, text, how)
    fit = TunedFit(
        lens=lens.name,
        sites=sites,
        steps=steps,
        curve=curve,
        held=held,
        start=start,
        alone=alone,
        provenance=made_by(call, model, corpus.fingerprint, seed=how.seed),
        cost=cost,
    )
    origin = {**learned(corpus), "steps": how.steps, "batch": how.batch}
    return Lens(model, how.kind, affine, points, how.ahead, origin, fit)


class _Map:
    """1. The regression, and 2. its correction: h -> M h + m + size (D W (h - centre) + c)."""

    def __init__(self, moments: Moments, *, bias: bool):
        M, m = moments.linear(bias=bias)
        self.M, self.m, self.size, self.bias = M.float(), m.float(), moments.rms, bias
        self.W, self.centre = moments.whitener(bias=bias).float(), moments.centre(bias=bias).float()
        self.D = torch.zeros_like(self.M, requires_grad=True)
        self.c = torch.zeros_like(self.m, requires_grad=bias)

    @property
    def leaves(self) -> list[Tensor]:
        """What is trained."""
        return [self.D, self.c] if self.bias else [self.D]

    def affine(self) -> Affine:
        """4. One change and one bias."""
        moved = self.size * self.D @ self.W
        change = self.M + moved - torch.eye(len(self.M), device=self.M.device)
        constant = self.m + self.size * self.c - moved @ self.centre
        return Affine(change, constant if self.bias else None)


def _check(corpus: Corpus, held_out: Corpus, how: Fitting) -> None:
    numbers = {"steps": how.steps, "batch": how.batch, "rate": how.rate, "judged_rows": how.judged_rows}
    if wrong := [name for name, value in numbers.items() if not value > 0]:
        raise BadInput(explain(f"{wrong[0]}={numbers[wrong[0]]} is no number of something", possible="above 0"))
    if corpus.fingerprint == held_out.fingerprint:
        asked = "A lens is judged on text that it was not fitted on"
        raise BadInput(explain(asked, found="the same text twice", do="learn, held_out = corpus.split(rows)"))


def _moments(model: Model, corpus: Corpus, sites: tuple[str, ...], how: Fitting) -> dict[str, Moments]:
    """1. One pass over the text."""
    last = stream_points(model)[-1]
    found: dict[str, Moments] = {}
    read = tuple(dict.fromkeys((*sites, last)))
    rows = how.steps * how.batch
    total = min(rows, len(corpus)) // how.batch
    for passage in track(
        passages(model, corpus, read, ahead=how.ahead, batch=how.batch, rows=rows), "regression", total
    ):
        y = passage.stream(last, how.ahead)
        for site in sites:
            h = passage.stream(site)
            if site not in found:
                found[site] = Moments(model.d_model, h.device)
            found[site].add(h, y)
    return found


def _trained(
    model: Model, corpus: Corpus, text: Tokens, maps: dict[str, _Map], how: Fitting
) -> tuple[tuple[int, ...], Float[Tensor, "point depth"]]:
    """2. and 3. Trains the corrections; at which steps they were judged, and how good they were."""
    leaves = [leaf for one in maps.values() for leaf in one.leaves]
    optimiser = torch.optim.Adam(leaves, lr=how.rate, betas=_BETAS)
    looks = sorted({round(how.steps * at / _LOOKS) for at in range(_LOOKS + 1)})
    curve, pool = [], _endless(model, corpus, tuple(maps), how)
    for step in track(range(how.steps + 1), f"fitting a {how.kind} lens"):
        if step in looks:
            lens = Lens(model, how.kind, {site: one.affine() for site, one in maps.items()}, ahead=how.ahead)
            curve.append(_judged(model, text, lens, tuple(maps), how).mean(1))
        if step == how.steps:
            break
        streams, target = next(pool)
        with torch.no_grad():
            own = log_probs(model.readout(target))
        for site, one in maps.items():  # a point at a time: its logits are gone before the next one's are made
            moved = carried(streams[site], one.affine())
            loss = kl(own, log_probs(model.readout(moved.to(model.dtype)))).mean()
            if not bool(torch.isfinite(loss)):
                asked = f"Training of the lens at {site} ran away"
                raise NotFinite(explain(asked, found=f"a loss of {float(loss)} in step {step}", do="lower the rate"))
            loss.backward()
            count_backward(how.batch)
        for group in optimiser.param_groups:
            group["lr"] = how.rate * (1 - step / how.steps)
        optimiser.step()
        optimiser.zero_grad()
    for leaf in leaves:
        leaf.requires_grad = False
    return tuple(looks), torch.stack(curve)


def _endless(
    model: Model, corpus: Corpus, sites: tuple[str, ...], how: Fitting
) -> Iterator[tuple[dict[str, Tensor], Float[Tensor, "row d_model"]]]:
    """2. Of the tokens of each step: the stream at every point, and the last stream `ahead` tokens later."""
    draw, last = torch.Generator().manual_seed(how.seed), stream_points(model)[-1]
    read = tuple(dict.fromkeys((*sites, last)))
    while True:
        text = passages(model, corpus, read, ahead=how.ahead, batch=how.batch)
        while some := list(islice(text, _POOL)):
            pool = {site: torch.cat([one.stream(site) for one in some]) for site in sites}
            target = torch.cat([one.stream(last, how.ahead) for one in some])
            order = torch.randperm(len(target), generator=draw).to(target.device)
            for chosen in order.chunk(len(some)):
                yield {site: x[chosen] for site, x in pool.items()}, target[chosen]


@torch.no_grad()
def _judged(
    model: Model, text: Tokens, lens: Lens, sites: tuple[str, ...], how: Fitting
) -> Float[Tensor, "depth example"]:
    """3. KL from the model, row by row of text; a logit lens is held against the same answers as a future lens."""
    found = []
    for passage in passages(model, text, sites, ahead=how.ahead, batch=how.batch):
        own = passage.said(how.ahead)
        each = [kl(own, log_probs(lens.logits(passage.stream(site), site))) for site in sites]
        found.append(passage.by_row(torch.stack(each)))
    return torch.cat(found, 1)


@torch.no_grad()
def _alone(model: Model, corpus: Corpus, text: Tokens, how: Fitting) -> Float[Tensor, " example"]:
    """What the token alone says, on the same tokens."""
    bigram = count_bigrams(model, corpus, ahead=how.ahead)
    passed = passages(model, text, (), ahead=how.ahead, batch=how.batch)
    return torch.cat([p.by_row(kl(own := p.said(how.ahead), bigram.log_probs(p.ids()).to(own.device))) for p in passed])
