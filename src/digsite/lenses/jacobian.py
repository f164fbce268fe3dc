"""The Jacobian lens: how the last stream answers to a small change at a point, on average over a text. No training.

1. A prompt goes through the model as several equal rows, on one graph.
2. One backward pass gives a row of the Jacobian for each of these copies: copy r is asked for the gradient of
   coordinate i_r of the last stream, summed over the positions that count, at every point of the stream at once.
3. The gradient at position p is the sum over p' >= p of dh_last[p'] / dh[p], for a model looks back only. Its mean over
   the positions that count is the prompt's Jacobian, and the mean over prompts is the lens: J.
4. With `probes`, each copy is asked for v · h_last with v of random signs instead; since E[v vᵀ] is the identity, the
   mean of v (vᵀ J) is J too, at `probes` rows a prompt instead of d_model.

Positions that count: all but the first few, where attention sinks lie, and the last, which no later token reads.
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import count_backward, measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite._core.progress import track
from digsite.lenses.fits import JacobianFit
from digsite.lenses.lens import Affine, Lens, same_model, stream_points
from digsite.lenses.passages import learned
from digsite.models import Model, Tokens, made_by
from digsite.tasks import Corpus

SKIP = 16
"""Positions at the beginning that are left out: attention rests there, and their Jacobians are of another kind."""


def fit_jacobian(
    model: Model,
    corpus: Corpus,
    *,
    prompts: int = 100,
    skip: int = SKIP,
    copies: int | None = None,
    probes: int | None = None,
    seed: int = 0,
) -> Lens:
    """A lens that carries the stream to the end as a small change of it would be carried, on average.

    Args:
        model: The model.
        corpus: Its rows are the prompts.
        prompts: How many of them.
        skip: Positions at the beginning of each that are left out.
        copies: Rows of a Jacobian that are computed in one pass; more take more memory. As many as make 512 tokens
            on a CPU and 8,192 on a GPU if None.
        probes: Random vectors a prompt, instead of all rows; None for all.
        seed: Of these vectors.

    Returns:
        The lens; `lens.fit` says how settled the mean is. `merge` joins those of several texts or machines.

    Raises:
        BadInput: No prompt is longer than `skip` + 1, or a number is none.
        NotFinite: A gradient is NaN or infinite.

    Units: coordinates of the last stream per coordinate of this one.

    Source:
        "Verbalizable Workspace" (Anthropic 2026): J = E over prompts of the mean over p of Σ over p' ≥ p. The random
        signs are Hutchinson's; ours.

    Caveats:
        The sum over later positions mixes what a token does to its own place with what it does to others that read it.
        A Jacobian carries changes, not values: it has no constant, and its KL says little of how well it reads.
    """
    _check(model, prompts, skip, copies, probes)
    points, d = stream_points(model), model.d_model
    draw = torch.Generator().manual_seed(seed)
    mean, odd = (torch.zeros(len(points), d, d, dtype=torch.float64) for _ in range(2))
    moved, n = [], 0
    with measure() as cost:
        for tokens in track(itertools.islice(_long_enough(corpus, skip), prompts), "Jacobians", prompts):
            cotangents = torch.eye(d) if probes is None else _signs(probes, d, draw)
            rows = jacobian_rows(model, tokens, points, cotangents, skip=skip, copies=copies)  # 2. and 3.
            one = rows if probes is None else cotangents.T @ rows / probes  # 4.
            n += 1
            step = (one.double() - mean) / n
            mean += step
            odd += one.double() * (n % 2)
            if n > 1:
                moved.append(float((step.norm(dim=(1, 2)) / mean.norm(dim=(1, 2)))[:-1].mean()))
    if not n:
        raise BadInput(explain("No prompt is long enough", possible=f"more than {skip + 2} tokens", do="lower skip"))
    eye = torch.eye(d, dtype=torch.float64)
    count = (n + 1) // 2
    apart = odd / count - (n * mean - odd) / max(1, n - count)
    fit = JacobianFit(
        sites=points,
        prompts=n,
        probes=probes or 0,
        moved=torch.tensor(moved),
        halves=(apart.norm(dim=(1, 2)) / mean.norm(dim=(1, 2))).float()
        if n > 1
        else torch.full((len(points),), torch.nan),
        from_identity=((mean - eye).norm(dim=(1, 2)) / eye.norm()).float(),
        provenance=made_by(
            f"digsite.lenses.fit_jacobian(model, corpus, prompts={prompts}, skip={skip}, probes={probes})",
            model,
            corpus.fingerprint,
            seed=None if probes is None else seed,
        ),
        cost=cost,
    )
    maps = {site: Affine((J - eye).float()) for site, J in zip(points[:-1], mean, strict=False)}
    origin = {**learned(corpus), "prompts": n, "skip": skip}
    return Lens(model, "jacobian", maps, points, origin=origin, fit=fit)


def merge(lenses: Sequence[Lens]) -> Lens:
    """One Jacobian lens of several: that of all their prompts together.

    Args:
        lenses: Of one model, over the same points; each counts as much as it has prompts.

    Raises:
        BadInput: None, one that is no Jacobian lens, or lenses of other models or points.
    """
    first, *others = lenses or (None,)
    if first is None or any(lens.kind != "jacobian" or "prompts" not in lens.origin for lens in lenses):
        found = ", ".join(lens.name for lens in lenses) or "none"
        raise BadInput(explain("Jacobian lenses are merged, by their numbers of prompts", found=found))
    for lens in others:
        same_model(lens, first.model)
        if lens.sites != first.sites or lens.maps.keys() != first.maps.keys():
            raise BadInput(explain("The lenses read other points", found=f"{lens.sites} and {first.sites}"))
    counts = [lens.origin["prompts"] for lens in lenses]
    maps = {}
    for site in first.maps:
        each = torch.stack([lens.maps[site].change.double() for lens in lenses])
        share = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        maps[site] = Affine(torch.einsum("n,nij->ij", share, each).float())
    return Lens(first.model, "jacobian", maps, first.sites, origin={"prompts": sum(counts), "merged": len(lenses)})


def jacobian_rows(
    model: Model,
    tokens: Tokens,
    sites: Sequence[str],
    cotangents: Float[Tensor, "probe d_model"],
    *,
    skip: int = 0,
    copies: int | None = None,
) -> Float[Tensor, "depth probe d_model"]:
    """1. to 3. for one prompt: vectors times the prompt's Jacobian, at every point at once.

    Args:
        model: The model.
        tokens: One row.
        sites: Points of the stream.
        cotangents: The vectors; the identity for the Jacobian itself.
        skip: Positions at the beginning that do not count.
        copies: Vectors in a pass.

    Raises:
        NotFinite: A gradient is NaN or infinite.
    """
    last, length = stream_points(model)[-1], tokens.ids.shape[1]
    together = 512 if model.device.type == "cpu" else 8192  # tokens: what fits a cache, and what fills a GPU
    copies = min(len(cotangents), copies or max(1, together // length))
    read = tuple(dict.fromkeys((*sites, last)))
    run = model.run(
        Tokens(tokens.ids.expand(copies, -1), tokens.mask.expand(copies, -1)), read=read, grad=True, logits=None
    )
    count = slice(skip, length - 1)
    end, at = run[last], [run[site] for site in sites]
    found = []
    for start in range(0, len(cotangents), copies):
        some = cotangents[start : start + copies].to(end.device, end.dtype)
        asked = (end[: len(some), count] * some.unsqueeze(1)).sum()
        grads = torch.autograd.grad(asked, at, retain_graph=start + copies < len(cotangents))
        count_backward(len(some))
        found.append(torch.stack([g[: len(some), count].float().mean(1).cpu() for g in grads]))
    return require_finite("The Jacobian", torch.cat(found, 1))


def _check(model: Model, prompts: int, skip: int, copies: int | None, probes: int | None) -> None:
    numbers = {"prompts": prompts, "copies": 1 if copies is None else copies, "probes": 1 if probes is None else probes}
    if wrong := [name for name, value in numbers.items() if value < 1]:
        raise BadInput(explain(f"{wrong[0]}={numbers[wrong[0]]} is no number of {wrong[0]}", possible="1 or more"))
    if skip < 0 or (model.n_ctx is not None and skip + 2 > model.n_ctx):
        raise BadInput(explain(f"skip={skip} leaves no position", possible=f"0 to {(model.n_ctx or 3) - 2}"))


def _long_enough(corpus: Corpus, skip: int) -> Iterator[Tokens]:
    """The prompts, one by one, without those that have no position that counts."""
    return (tokens for tokens in corpus.batches(1) if tokens.lengths[0] > skip + 1)


def _signs(count: int, width: int, draw: torch.Generator) -> Float[Tensor, "probe d_model"]:
    """4. Vectors of random signs."""
    return torch.randint(0, 2, (count, width), generator=draw).float() * 2 - 1
