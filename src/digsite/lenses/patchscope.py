"""Patchscopes: put a vector into another prompt and let the model say what it means.

1. A target prompt has a place, such as the x of "cat -> cat; dog -> dog; x ->". The model reads it once for each vector
   and scale, with the vector in the place of the stream at a site there.
2. What is read: the model's distribution over the next token, and what it writes on from there. Edits are at absolute
   positions, so that a KV cache and padding change nothing.
3. What a vector is said to mean is the token that was asked about (`wanted`), or else the most likely one.
4. Controls, each at the same place and scale: a random vector of the same length, the empty vector (zero), the mean of
   all vectors that were given, and the target prompt with nothing put in. The probability that each gives to the same
   token says how much of a reading is the target prompt's own (leakage).
5. SelfIE is the same with an instruction that has the place several times, and a text that is written.

Source: Ghandeharioun et al. 2024, "Patchscopes" (arXiv:2401.06102); Chen et al. 2024, "SelfIE" (arXiv:2403.10949).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite._core.numerics import bootstrap_interval, require_finite
from digsite._core.progress import track
from digsite._core.recording import method
from digsite._core.visible import visible
from digsite.artifacts import Result
from digsite.lenses.identity import identity_prompt
from digsite.lenses.written import spelled
from digsite.models import Edit, Model, Tokens, apply, made_by
from digsite.sites import SITES, Site

CONTROLS = ("random", "empty", "mean", "nothing put in")
BATCH = 64
"""Vectors in one pass."""


@dataclass(frozen=True, kw_only=True)
class Patchscope(Result):
    """What vectors are said to mean when they stand in another prompt.

    Attributes:
        site: Where the vectors were put in.
        prompt: The target prompt, token by token.
        places: The positions of it that received them.
        scales: What the vectors were multiplied by, one after the other.
        asked: Whether the tokens that were wanted are given; else `said` are the most likely ones.
        said: The token that each vector at each scale is judged by.
        prob: Its probability as the next token.
        controls: What stands beside.
        control: The probability of the same token there.
        moved: KL divergence of the distribution from that of the target prompt with nothing put in, in nats.
        likely: The most likely next tokens.
        likely_prob: Their probabilities.
        texts: What the model wrote on, for each vector and scale; empty if it was not asked to.
        words: How the tokens are written, by id.
    """

    SCHEMA: ClassVar[str] = "lenses.patchscope/1"

    site: str
    prompt: tuple[str, ...]
    places: tuple[int, ...]
    scales: tuple[float, ...]
    asked: bool
    said: Int[Tensor, "example setting"]
    prob: Float[Tensor, "example setting"]
    controls: tuple[str, ...]
    control: Float[Tensor, "control example setting"]
    moved: Float[Tensor, "example setting"]
    likely: Int[Tensor, "example setting top"]
    likely_prob: Float[Tensor, "example setting top"]
    texts: tuple[tuple[str, ...], ...]
    words: dict[str, str]

    @property
    def best(self) -> int:
        """The scale at which the readings stand out most, as a place in `scales`.

        It is chosen on the even examples; `verdict` judges it on the odd ones where there are as many.
        """
        some = slice(None) if len(self.prob) < 4 else slice(0, None, 2)
        return int((self.prob - self.control.max(0).values)[some].mean(0).argmax())

    @property
    def right(self) -> Float[Tensor, "example setting"]:
        """Whether the token that was asked about is the most likely one."""
        return (self.likely[..., 0] == self.said).float()

    def to_frame(self) -> pl.DataFrame:
        """One row for each scale: the mean probability of what is said, its interval, and that of each control."""
        low, high = bootstrap_interval(self.prob)
        columns: dict[str, object] = {
            "scale": list(self.scales),
            "prob": self.prob.mean(0).tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
        }
        columns |= {name: self.control[at].mean(0).tolist() for at, name in enumerate(self.controls)}
        columns |= {"on top": self.right.mean(0).tolist(), "moved": self.moved.mean(0).tolist()}
        return pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None), n=pl.lit(len(self.prob)))

    def readings(self) -> pl.DataFrame:
        """One row for each vector and scale: what is said of it, the likeliest tokens, and the text."""
        made = []
        for row in range(len(self.prob)):
            for at, scale in enumerate(self.scales):
                made.append(
                    {
                        "vector": row,
                        "scale": scale,
                        "said": self.words[str(int(self.said[row, at]))],
                        "prob": float(self.prob[row, at]),
                        "control": float(self.control[:, row, at].max()),
                        "likely": [self.words[str(token)] for token in self.likely[row, at].tolist()],
                        "text": self.texts[row][at] if self.texts else None,
                    }
                )
        return pl.DataFrame(made, schema_overrides={"text": pl.String})

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        at, rows = self.best, slice(None) if len(self.prob) < 4 else slice(1, None, 2)
        prob = self.prob[rows, at]
        low, high = bootstrap_interval(prob)
        each = dict(zip(self.controls, self.control[:, rows, at].mean(1).tolist(), strict=True))
        beaten = [name for name, value in each.items() if not value < (float(low) if len(prob) > 1 else float(prob))]
        beside = ", ".join(f"{name} {value:.2f}" for name, value in each.items())
        what = "what was asked about" if self.asked else "the likeliest reading"
        one = f" ({visible(self.words[str(int(self.said[0, at]))])})" if len(self.prob) == 1 else ""
        between = f" (95 % {float(low):.2f} to {float(high):.2f})" if len(prob) > 1 else ""
        failed = f"; that is no more than {' and '.join(beaten)}" if beaten else ""
        return (
            f"put in at {self.site} by a scale of {self.scales[at]:g}, {what}{one} has a probability of "
            f"{float(prob.mean()):.2f}{between}; beside: {beside}{failed}; n = {len(prob)} vectors"
        )


@method
@torch.no_grad()
def patchscope(
    model: Model,
    vectors: Float[Tensor, "example d_model"],
    *,
    site: str,
    prompt: str | Tokens | None = None,
    at: int | Sequence[int] | None = None,
    scales: Sequence[float] = (1.0,),
    wanted: Sequence[int] | None = None,
    new: int = 0,
    mix: float = 1.0,
    top: int = 5,
    seed: int = 0,
) -> Patchscope:
    """What each vector means, said by the model in a prompt of its own.

    Args:
        model: The model.
        vectors: Of the stream, one row each, such as `run["layers.3.resid_post"][:, -1]`.
        site: Where they are put in: "layers.3.resid_post". Where they come from, or earlier.
        prompt: The target prompt; `identity_prompt(model)` if None.
        at: The positions that receive; the placeholder of `identity_prompt` if None.
        scales: What the vectors are multiplied by, one after the other.
        wanted: For each vector the id of the token that it should be read as; the most likely one if None.
        new: Tokens to write on.
        mix: 1 puts the vector in the place of the stream; below, so much of it and the rest of what was there.
        top: Likeliest tokens to keep.
        seed: Of the random vectors.

    Raises:
        BadInput: No vector, no scale, a site without a stream, a position outside the prompt, or as many wanted tokens
            as there are not vectors.
        ShapeMismatch: Vectors of another width.
        NotFinite: A vector holds a NaN.

    Units: probabilities; KL in nats.

    Caveats:
        A vector reads best near its own length and near its own layer: sweep scales, and look at the controls, not at
        the probability. With a few-shot prompt the model may answer from the examples: that is what the control
        "nothing put in" shows.
    """
    target, places = _target(model, prompt, at)
    vectors = _checked(model, vectors, site, scales, wanted)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(vectors.shape, generator=generator).to(vectors)
    given = {
        "vectors": vectors,
        "random": noise / noise.norm(dim=1, keepdim=True) * vectors.norm(dim=1, keepdim=True),
        "empty": torch.zeros_like(vectors),
        "mean": vectors.mean(0, keepdim=True).expand_as(vectors),
    }
    read = partial(_next, model, target, site, places, mix)
    with measure() as cost:
        plain = model.run(target, logits=1).logits[0, -1].float().log_softmax(-1)
        logp: dict[str, list[Tensor]] = {name: [] for name in given}
        texts: list[list[str]] = []
        for scale in track(scales, "patchscope"):
            for name, some in given.items():
                logp[name].append(read(some * scale))
            if new:
                texts.append(_written(model, target, site, places, mix, vectors * scale, new))
        found = {name: torch.stack(one, 1) for name, one in logp.items()}  # [vector, scale, vocab]
    own = found.pop("vectors")
    likely = own.topk(min(top, own.shape[-1]), dim=-1)
    said = likely.indices[..., 0] if wanted is None else torch.tensor(list(wanted))[:, None].expand(own.shape[:2])
    beside = [*found.values(), plain.expand_as(own)]

    def of(logp: Tensor) -> Tensor:
        return logp.exp().gather(-1, said.to(logp.device)[..., None])[..., 0].cpu()

    return Patchscope(
        site=str(Site.parse(site)),
        prompt=tuple(target.strings[0]),
        places=places,
        scales=tuple(float(scale) for scale in scales),
        asked=wanted is not None,
        said=said.cpu().contiguous(),
        prob=of(own),
        controls=CONTROLS,
        control=torch.stack([of(one) for one in beside]),
        moved=(own.exp() * (own - plain)).sum(-1).cpu(),
        likely=likely.indices.cpu(),
        likely_prob=likely.values.exp().cpu(),
        texts=tuple(zip(*texts, strict=True)) if texts else (),
        words=spelled(model, {*said.flatten().tolist(), *likely.indices.flatten().tolist()}),
        provenance=made_by(
            f"digsite.lenses.patchscope(model, vectors, site={site!r}, prompt={''.join(target.strings[0])!r}, "
            f"at={list(places)}, scales={list(scales)}, wanted={None if wanted is None else list(wanted)}, new={new}, "
            f"mix={mix}, seed={seed})",
            model,
            target.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


@method
def self_ie(
    model: Model,
    vectors: Float[Tensor, "example d_model"],
    *,
    site: str,
    instruction: str,
    placeholder: str,
    new: int = 20,
    mix: float = 1.0,
    scales: Sequence[float] = (1.0,),
    wanted: Sequence[int] | None = None,
    seed: int = 0,
) -> Patchscope:
    """What each vector means, in the model's own words: an instruction with placeholders, and the text that follows.

    Args:
        model: The model.
        vectors: Of the stream, one row each.
        site: Where they are put in, an early layer as a rule.
        instruction: Such as "The meaning of _ _ _ is".
        placeholder: The word of it that stands for the vector, as often as it comes: "_".
        new: Tokens to write.
        mix: 1 puts the vector in the place of the stream; below, so much of it and the rest of what was there.
        scales: What the vectors are multiplied by.
        wanted: For each vector the id of the token that should come first.
        seed: Of the random vectors.

    Raises:
        BadInput: The instruction does not have the placeholder as a token of its own.

    Source: Chen et al. 2024, "SelfIE" (arXiv:2403.10949).

    Caveats:
        A model that was not trained to follow instructions goes on with the text as with any other.
    """
    tokens = model.tokens([instruction])
    places = [at for at, word in enumerate(tokens.strings[0]) if word.strip() == placeholder.strip()]
    if not places:
        raise BadInput(
            explain(
                f"The instruction has no placeholder {placeholder!r} as a token of its own",
                found=" ".join(visible(word) for word in tokens.strings[0]),
                do="write the placeholder as a word that this tokenizer knows",
            )
        )
    return patchscope(
        model, vectors, site=site, prompt=tokens, at=places, scales=scales, wanted=wanted, new=new, mix=mix, seed=seed
    )


def _target(
    model: Model, prompt: str | Tokens | None, at: int | Sequence[int] | None
) -> tuple[Tokens, tuple[int, ...]]:
    """1. The target prompt and the positions that receive."""
    if prompt is None:
        prompt, place = identity_prompt(model)
        at = place if at is None else at
    target = model.tokens([prompt]) if isinstance(prompt, str) else prompt
    if len(target) != 1 or at is None:
        raise BadInput(
            explain(
                "A patchscope needs one target prompt and the positions of it that receive",
                found=f"{len(target)} prompts, at={at}",
                do="give at=, such as at=-2",
            )
        )
    places = target.places([at] if isinstance(at, int) else list(at))
    return target, tuple(int(column) - target.starts[0] for column in places.columns)


def _checked(
    model: Model, vectors: Tensor, site: str, scales: Sequence[float], wanted: Sequence[int] | None
) -> Float[Tensor, "example d_model"]:
    where = Site.parse(site)
    if "d_model" not in SITES[where.name].axes or "head" in SITES[where.name].axes or not where.is_concrete:
        raise BadInput(explain(f"{site} is not a place of the stream", possible="one site such as layers.3.resid_post"))
    if vectors.ndim != 2 or vectors.shape[1] != model.d_model:
        raise ShapeMismatch(
            explain(
                "Vectors come one a row, as wide as the stream",
                found=str(tuple(vectors.shape)),
                possible=str(model.d_model),
            )
        )
    if not len(vectors) or not len(scales) or (wanted is not None and len(wanted) != len(vectors)):
        found = f"{len(vectors)} vectors, {len(scales)} scales, {'no' if wanted is None else len(wanted)} wanted tokens"
        raise BadInput(
            explain("A patchscope needs a vector, a scale, and a wanted token for each or none", found=found)
        )
    return require_finite("vectors", vectors.detach().to(model.device, torch.float32))


def _edit(site: str, places: tuple[int, ...], mix: float, values: Float[Tensor, "example d_model"]) -> Edit:
    """The stream at some positions of each row becomes the row's vector, or a mixture of both."""

    def mixed(x: Tensor) -> Tensor:
        return (
            ((1 - mix) * x + mix * values[:, None].to(x)).to(x.dtype)
            if mix != 1
            else values[:, None].to(x).expand_as(x)
        )

    return apply(site, mixed, at=list(places))


def _rows(target: Tokens, count: int) -> Tokens:
    return Tokens(
        target.ids.expand(count, -1), target.mask.expand(count, -1), bos=target.bos, tokenizer=target.tokenizer
    )


def _next(
    model: Model,
    target: Tokens,
    site: str,
    places: tuple[int, ...],
    mix: float,
    values: Float[Tensor, "example d_model"],
) -> Float[Tensor, "example vocab"]:
    """2. The log-probabilities of the next token."""
    made = []
    for some in values.split(BATCH):
        run = model.run(_rows(target, len(some)), edits=[_edit(site, places, mix, some)], logits=1)
        made.append(run.logits[:, -1].float().log_softmax(-1))
    return torch.cat(made)


def _written(
    model: Model,
    target: Tokens,
    site: str,
    places: tuple[int, ...],
    mix: float,
    values: Float[Tensor, "example d_model"],
    new: int,
) -> list[str]:
    """2. What the model writes on."""
    texts: list[str] = []
    for some in values.split(BATCH):
        edits = [_edit(site, places, mix, some)]
        made = model.generate(_rows(target, len(some)), max_new_tokens=new, edits=edits)
        texts += made.texts if target.tokenizer is not None else [" ".join(map(str, ids)) for ids in made.generated]
    return texts
