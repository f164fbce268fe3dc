"""Where heads look, and what they do to the logits of what they look at, on rows of tokens.

1. Every row is run once; patterns are read and never written.
2. For each kind of head the attention given to its pairs is summed and averaged (`patterns.weights`), row by row.
3. The null: the same pairs with each source some positions aside.
4. Entropy: that of a position's attention, as a share of what looking everywhere alike would have; mean over positions.
5. Copy suppression: minus what a head does to the logits of the tokens it attends to, weighted by how much; the logits
   are the head's direct effect, the final norm's scale held, relative to the mean over all tokens. The first position
   and a position itself do not count. Its null: the same attention, with the logits of the tokens beside.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.heads.patterns import Pairs, attention, beside, earlier, first_token, weights
from digsite.models import Model, Run, Tokens
from digsite.models.direct import heads_written, through_final_norm, unembedding

SHIFTS = (-3, -2, -1, 1, 2, 3)
"""How far aside the sources of the null lie."""
ENTROPY, SUPPRESSION = "entropy", "copy suppression"


@dataclass
class Looks:
    """What was measured of one kind of head on one text.

    Attributes:
        values: One number for each row that has a pair of this kind.
        null: The mean over the same rows, for each shift.
    """

    values: list[Float[Tensor, "batch layer head"]] = field(default_factory=list)
    null: list[Float[Tensor, "batch layer head draw"]] = field(default_factory=list)

    def joined(self) -> tuple[Float[Tensor, "layer head example"], Float[Tensor, "layer head draw"]]:
        """All rows, and the null's means."""
        values, null = torch.cat(self.values), torch.cat(self.null)
        return values.movedim(0, -1).contiguous(), null.mean(0)


@torch.no_grad()
def look(
    model: Model, batches: Iterable[tuple[Tokens, Mapping[str, Pairs]]], layers: tuple[int, ...], also: set[str]
) -> dict[str, Looks]:
    """Runs rows and measures each kind of head on them.

    Args:
        model: The model.
        batches: Rows, and the pairs of each kind in them.
        layers: Layers with attention that can be looked at.
        also: Any of `ENTROPY` and `SUPPRESSION`.

    Raises:
        BadInput: No row has a pair of some kind.
    """
    found: dict[str, Looks] = {}
    asked: dict[str, None] = {}
    reads = [f"layers.{layer}.attn.pattern" for layer in layers]
    last = f"layers.{model.n_layers - 1}.resid_post"
    if SUPPRESSION in also:
        reads += [*(f"layers.{layer}.attn.z" for layer in layers), last]
    centred = unembedding(model).T if SUPPRESSION in also else None
    centred = None if centred is None else centred - centred.mean(0)
    for tokens, pairs in batches:
        asked |= dict.fromkeys(pairs)
        # 1. One pass.
        run = model.run(tokens, read=reads, logits=None)
        patterns = [run[f"layers.{layer}.attn.pattern"].float() for layer in layers]
        # 2. and 3. Attention to pairs, and to the pairs beside.
        for kind, some in pairs.items():
            rows = some.any(2).any(1)
            if not bool(rows.any()):
                continue
            counted = [weights(some), *(beside(some, tokens, by) for by in SHIFTS)]
            each = torch.stack([_attended(patterns, one) for one in counted], -1)[rows]
            _keep(found, kind, each)
        # 4. Entropy.
        if ENTROPY in also:
            each = torch.stack([_entropy(pattern, tokens) for pattern in patterns], 1).cpu()
            _keep(found, ENTROPY, torch.stack([each, torch.ones_like(each)], -1))
        # 5. What a head does to what it looks at.
        if centred is not None:
            per_layer = [
                _suppressed(model, run, tokens, pattern, layer, centred, last)
                for layer, pattern in zip(layers, patterns, strict=True)
            ]
            _keep(found, SUPPRESSION, torch.stack(per_layer, 1))
    if missing := [kind for kind in asked if kind not in found]:
        raise BadInput(
            explain(
                f"No row has a place where a head of the kind {missing[0]!r} would look",
                do="give longer rows, or leave this kind out of kinds=",
            )
        )
    return found


def _keep(found: dict[str, Looks], kind: str, each: Float[Tensor, "batch layer head _"]) -> None:
    looks = found.setdefault(kind, Looks())
    looks.values.append(each[..., 0])
    looks.null.append(each[..., 1:])


def _attended(
    patterns: list[Float[Tensor, "batch head dst src"]], weight: Float[Tensor, "batch dst src"]
) -> Float[Tensor, "batch layer head"]:
    return torch.stack([attention(pattern, weight).cpu() for pattern in patterns], 1)


def _entropy(pattern: Float[Tensor, "batch head dst src"], tokens: Tokens) -> Float[Tensor, "batch head"]:
    """The mean over positions after the first of how evenly each looks at those it can see: 1 is alike at all."""
    position = tokens.positions.to(pattern.device)
    later = (tokens.mask.to(pattern.device) & (position > 0)).float()
    even = torch.special.entr(pattern).sum(-1) / (position.clamp(min=1) + 1).log()[:, None]
    return (even * later[:, None]).sum(-1) / later.sum(-1).clamp(min=1)[:, None]


def _suppressed(
    model: Model,
    run: Run,
    tokens: Tokens,
    pattern: Float[Tensor, "batch head dst src"],
    layer: int,
    centred: Float[Tensor, "vocab d_model"],
    last: str,
) -> Float[Tensor, "batch head _"]:
    """Minus what each head does to the logits of what it attends to; then the same with the tokens beside, by shift."""
    read = through_final_norm(model, heads_written(model, layer, run[f"layers.{layer}.attn.z"]), run[last][:, :, None])
    effect = -torch.einsum("bdhm,bsm->bhds", read, centred[tokens.ids.to(centred.device)])
    seen = earlier(tokens) & ~first_token(tokens)
    destinations = seen.any(2).sum(1).clamp(min=1)[:, None].to(pattern)
    found = []
    for by in (0, *SHIFTS):
        # The source keeps its attention; the logit is that of the token `by` positions beside it, itself a source.
        column = torch.arange(seen.shape[2]) + by
        other = (tokens.ids != tokens.ids.roll(-by, 1)) & (column >= 0) & (column < seen.shape[2])
        there = seen & seen.roll(-by, 2) & other[:, None] if by else seen
        weight = pattern * there[:, None].to(pattern)
        found.append(((weight * effect.roll(-by, 3)).sum((2, 3)) / destinations).cpu())
    return torch.stack(found, -1)
