"""Tables of weights in tokens: what makes a neuron fire, what it writes, what a head copies and where it looks.

Every table reads a token as the layer meets it if there is nothing else: through `token_streams` (the embedding, for
layers after the first with the first MLP) and the norm in front of the layer. Only the largest entries of each row are
kept; rows are made some at a time, so that no matrix of vocabulary by vocabulary is ever there.

1. neuron in: W_in · embedding: how strongly each token drives a neuron (of a gated MLP, its gate).
2. neuron out: W_out · unembedding: how a neuron moves each token's logit when it fires.
3. OV: W_E W_V W_O W_U: what a head does to each token's logit when it attends to a token.
4. QK: the scores of attention from a token to each other one that stands so far before it. Queries and keys are the
   model's own, read at these positions, so that rotation, biases and norms of queries and keys are as they are; biases
   on the distance itself (ALiBi), which are the same for all tokens, are not in it.
5. Null: the highest entry of the same row when the numbers of the part's own weights are shuffled (of QK: of its
   queries, over their coordinates).

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (OV and QK circuits); Geva et al. 2021,
"Transformer Feed-Forward Layers Are Key-Value Memories".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite._core.recording import method
from digsite._core.visible import visible
from digsite.artifacts import Result
from digsite.lenses.written import TOP, Part, known_parts, spelled
from digsite.models import Model, direct, made_by, replace
from digsite.models.direct import (
    folded_unembedding,
    head_outputs,
    head_values,
    read_by,
    require_a_sum,
)
from digsite.models.token_streams import token_streams

ROWS = 512
"""Rows of a table that are made at one time."""
Of = Sequence[int] | None


@dataclass(frozen=True, kw_only=True)
class TokenTable(Result):
    """The largest entries of a table of weights.

    Attributes:
        what: "neuron in", "neuron out", "OV" or "QK".
        unit: Of its entries.
        distance: Of QK: how far before the query the key stands; None where positions do not matter.
        parts: Heads "2.3" or neurons "1.17": layer, and which.
        rows: The tokens that the rows stand for; -1 for the one row of a neuron.
        ids: The tokens with the highest entries of each row, the highest first.
        values: The entries.
        null: The highest entry of the same row with shuffled weights.
        words: How the tokens are written, by id.
    """

    SCHEMA: ClassVar[str] = "lenses.token_table/1"

    what: str
    unit: str
    distance: int | None
    parts: tuple[str, ...]
    rows: Int[Tensor, " row"]
    ids: Int[Tensor, "part row top"]
    values: Float[Tensor, "part row top"]
    null: Float[Tensor, "part row"]
    words: dict[str, str]

    @property
    def onto_itself(self) -> Float[Tensor, " part"]:
        """Of OV and QK: the share of rows whose own token has the highest entry."""
        return (self.ids[..., 0] == self.rows).float().mean(1)

    def to_frame(self) -> pl.DataFrame:
        """One row for each part and token: its highest entries as words, the highest, and that of the null."""
        made = []
        for at, part in enumerate(self.parts):
            for row, token in enumerate(self.rows.tolist()):
                made.append(
                    {
                        "part": part,
                        "token": None if token < 0 else self.words[str(token)],
                        "top": [self.words[str(one)] for one in self.ids[at, row].tolist()],
                        "values": self.values[at, row].tolist(),
                        "null": float(self.null[at, row]),
                    }
                )
        return pl.DataFrame(made, schema_overrides={"token": pl.String})

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        above = self.values[..., 0] - self.null
        at, row = divmod(int(above.argmax()), above.shape[1])
        words = ", ".join(visible(self.words[str(token)]) for token in self.ids[at, row, :3].tolist())
        token = int(self.rows[row])
        whose = f"{self.what} of {self.parts[at]}" + ("" if token < 0 else f" at {visible(self.words[str(token)])}")
        share = float((above > 0).float().mean())
        itself = ""
        if self.what in ("OV", "QK"):
            best = int(self.onto_itself.argmax())
            itself = f"; {self.parts[best]} has the token itself on top in {float(self.onto_itself[best]):.0%} of rows"
        return (
            f"{whose}: {words} (the first {float(self.values[at, row, 0]):.2f}, with shuffled weights at most "
            f"{float(self.null[at, row]):.2f}); {share:.0%} of {above.numel():,} rows are above their null{itself}"
        )


@method
@torch.no_grad()
def neuron_inputs(
    model: Model, neurons: Sequence[Part], *, effective: bool = True, top: int = TOP, seed: int = 0
) -> TokenTable:
    """Which tokens drive a neuron most, by weights alone.

    Args:
        model: The model.
        neurons: (layer, neuron) of each.
        effective: Layers after the first read the embedding with the first MLP.
        top: Tokens to keep.
        seed: Of the null.

    Units: the neuron's input before its nonlinearity.
    """
    chosen = known_parts(neurons, _neurons(model), "neuron")
    every = torch.arange(model.d_vocab)
    with measure() as cost:
        entries = _Entries(top)
        for layer in track(dict.fromkeys(layer for layer, _ in chosen), "reading neurons"):
            some = [number for where, number in chosen if where == layer]
            gates = model.weights.W_gate
            weight = (gates if layer in gates else model.weights.W_in)[layer][:, some].float()
            streams = read_by(model, layer, "mlp", token_streams(model, every, layer=layer, effective=effective))
            found, null = ((streams @ one).T[:, None] for one in (weight, _shuffled(weight, seed)))
            for at, number in enumerate(some):
                entries.add((layer, number), found[at], null[at])
    call = f"digsite.lenses.neuron_inputs(model, {chosen}, effective={effective}, seed={seed})"
    fields = entries.fields(model, chosen, torch.tensor([-1]))
    return TokenTable(
        what="neuron in",
        unit="pre-activation",
        distance=None,
        **fields,
        provenance=made_by(call, model, seed=seed),
        cost=cost,
    )


@method
@torch.no_grad()
def neuron_outputs(model: Model, neurons: Sequence[Part], *, top: int = TOP, seed: int = 0) -> TokenTable:
    """Which tokens a neuron raises most when it fires, by weights alone.

    Args:
        model: The model.
        neurons: (layer, neuron) of each.
        top: Tokens to keep.
        seed: Of the null.

    Units: logits for an activation of 1, where norms divide by 1.
    """
    require_a_sum(model)
    chosen = known_parts(neurons, _neurons(model), "neuron")
    reads = folded_unembedding(model)
    with measure() as cost:
        entries = _Entries(top)
        for layer, number in track(chosen, "reading neurons"):
            weight = direct.neuron_outputs(model, layer)[[number]]
            entries.add((layer, number), weight @ reads, _shuffled(weight, seed) @ reads)
    call = f"digsite.lenses.neuron_outputs(model, {chosen}, seed={seed})"
    fields = entries.fields(model, chosen, torch.tensor([-1]))
    return TokenTable(
        what="neuron out",
        unit="logits",
        distance=None,
        **fields,
        provenance=made_by(call, model, seed=seed),
        cost=cost,
    )


@method
@torch.no_grad()
def ov_table(
    model: Model,
    heads: Sequence[Part],
    *,
    tokens: Of = None,
    effective: bool = True,
    top: int = TOP,
    seed: int = 0,
) -> TokenTable:
    """Which tokens a head raises most when it attends to a token, by weights alone.

    Args:
        model: The model.
        heads: (layer, head) of each.
        tokens: Ids of the tokens that are attended to; all if None.
        effective: Layers after the first read the embedding with the first MLP.
        top: Tokens to keep of each.
        seed: Of the null.

    Units: logits for full attention, where the norms after the head divide by 1; biases are left out.
    """
    require_a_sum(model)
    chosen, ids, reads = known_parts(heads, _heads(model), "head"), _ids(model, tokens), folded_unembedding(model)
    with measure() as cost:
        entries = _Entries(top)
        for layer, head in track(chosen, "reading heads"):
            streams = read_by(model, layer, "attn", token_streams(model, ids, layer=layer, effective=effective))
            values, outputs = head_values(model, layer)[head], head_outputs(model, layer)[head]
            mixed = _shuffled(values, seed), _shuffled(outputs, seed + 1)
            null = (streams @ mixed[0], mixed[1] @ reads)
            entries.add_product((layer, head), (streams @ values, outputs @ reads), null)
    call = f"digsite.lenses.ov_table(model, {chosen}, tokens=tokens, effective={effective}, seed={seed})"
    fields = entries.fields(model, chosen, ids)
    return TokenTable(
        what="OV", unit="logits", distance=None, **fields, provenance=made_by(call, model, seed=seed), cost=cost
    )


@method
@torch.no_grad()
def qk_table(
    model: Model,
    heads: Sequence[Part],
    *,
    distance: int | None = None,
    tokens: Of = None,
    effective: bool = True,
    top: int = TOP,
    seed: int = 0,
) -> TokenTable:
    """Which tokens a head at a token attends to most, by weights alone.

    Args:
        model: The model.
        heads: (layer, head) of each.
        distance: How far before the query the key stands; needed where queries and keys are rotated.
        tokens: Ids of the tokens that attend; all if None. Every token may be attended to.
        effective: Layers after the first read the embedding with the first MLP.
        top: Tokens to keep of each.
        seed: Of the null.

    Raises:
        BadInput: Positions are rotated and no distance was given, or it is not within the context.

    Units: logits of attention, before a soft-cap.
    """
    chosen, ids = known_parts(heads, _heads(model), "head"), _ids(model, tokens)
    every = torch.arange(model.d_vocab)
    most = None if model.n_ctx is None else model.n_ctx - 1
    if distance is not None and not 0 <= distance <= (distance if most is None else most):
        raise BadInput(explain(f"distance={distance} is not within the context", possible=f"0 to {most}"))
    with measure() as cost:
        entries = _Entries(top)
        for layer in track(dict.fromkeys(layer for layer, _ in chosen), "reading heads"):
            streams = token_streams(model, every, layer=layer, effective=effective)
            if distance is None and _rotates(model, layer, streams):
                raise BadInput(
                    explain(
                        "What a head attends to depends on how far away it is, in this model",
                        found="queries and keys are rotated by their position",
                        do="give distance=1, or whichever",
                    )
                )
            queries, keys = _meeting(model, layer, streams, distance or 0)
            shared, scale = queries.shape[1] // keys.shape[1], _scale(model, layer, streams[:8])
            mix = torch.randperm(queries.shape[-1], generator=torch.Generator().manual_seed(seed))
            for where, head in chosen:
                if where == layer:
                    q, k = queries[ids, head] * scale, keys[:, head // shared]
                    entries.add_product((layer, head), (q, k.T), (q[:, mix], k.T))
    call = f"digsite.lenses.qk_table(model, {chosen}, distance={distance}, tokens=tokens, effective={effective})"
    fields = entries.fields(model, chosen, ids)
    made = made_by(call, model, seed=seed)
    return TokenTable(what="QK", unit="logits of attention", distance=distance, **fields, provenance=made, cost=cost)


class _Entries:
    """The highest entries of rows as they are made, part by part."""

    def __init__(self, top: int):
        self.top = top
        self.kept: dict[Part, tuple[Tensor, Tensor, Tensor]] = {}

    def add(self, part: Part, found: Float[Tensor, "row vocab"], null: Float[Tensor, "row vocab"]) -> None:
        """The rows of a part, and of the same with its weights shuffled."""
        values, ids = found.topk(min(self.top, found.shape[1]), dim=1)
        self.kept[part] = (ids.cpu(), values.cpu(), null.max(1).values.cpu())

    def add_product(self, part: Part, found: tuple[Tensor, Tensor], null: tuple[Tensor, Tensor]) -> None:
        """The rows of a product [row, d] @ [d, vocab], some at a time."""
        made = []
        for start in range(0, len(found[0]), ROWS):
            some = slice(start, start + ROWS)
            self.add(part, found[0][some] @ found[1], null[0][some] @ null[1])
            made.append(self.kept[part])
        ids, values, highest = (torch.cat(one) for one in zip(*made, strict=True))
        self.kept[part] = (ids, values, highest)

    def fields(self, model: Model, chosen: list[Part], rows: Int[Tensor, " row"]) -> dict[str, Any]:
        """What a table holds of these parts."""
        ids, values, null = (torch.stack(one) for one in zip(*(self.kept[part] for part in chosen), strict=True))
        used = {*ids.unique().tolist(), *(token for token in rows.tolist() if token >= 0)}
        parts = tuple(f"{layer}.{number}" for layer, number in chosen)
        words = spelled(model, used)
        return {"parts": parts, "rows": rows, "ids": ids, "values": values, "null": null, "words": words}


# -- what tables are made of ---------------------------------------------------------------------------------------
def _neurons(model: Model) -> list[Part]:
    weights = model.weights.W_out
    return [(i, n) for i in range(model.n_layers) if i in weights for n in range(weights[i].shape[0])]


def _heads(model: Model) -> list[Part]:
    return [(i, h) for i in range(model.n_layers) if i in model.weights.W_O for h in range(model.n_heads)]


def _ids(model: Model, tokens: Of) -> Int[Tensor, " row"]:
    """The tokens of the rows, each known to the model."""
    ids = torch.arange(model.d_vocab) if tokens is None else torch.tensor([int(token) for token in tokens])
    if not len(ids) or int(ids.max()) >= model.d_vocab or int(ids.min()) < 0:
        found = f"{len(ids)} tokens" if not len(ids) else f"id {int(ids.max())}"
        raise BadInput(explain("A table needs tokens of this model", found=found, possible=f"0 to {model.d_vocab - 1}"))
    return ids


def _shuffled(weight: Tensor, seed: int) -> Tensor:
    """The same numbers in another order."""
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(seed))
    return weight.flatten()[order.to(weight.device)].view_as(weight)


def _meeting(
    model: Model, layer: int, streams: Float[Tensor, "row d_model"], far: int
) -> tuple[Float[Tensor, "row head d_head"], Float[Tensor, "row kv_head d_head"]]:
    """The query of each stream at position `far`, and its key at position 0, as attention multiplies them."""
    sites = [f"layers.{layer}.attn.{name}" for name in ("q_rot", "k_rot")]
    queries, keys = [], []
    for start in range(0, len(streams), ROWS):
        some = streams[start : start + ROWS]
        rows = torch.zeros(len(some), far + 1, dtype=torch.long)  # which tokens they are no longer matters
        edit = replace(f"layers.{layer}.resid_pre", some[:, None].to(model.dtype))
        run = model.run(rows, read=sites, edits=[edit], logits=None)
        queries.append(run[sites[0]][:, far].float())
        keys.append(run[sites[1]][:, 0].float())
    return torch.cat(queries), torch.cat(keys)


def _rotates(model: Model, layer: int, streams: Float[Tensor, "row d_model"]) -> bool:
    """Whether the query of a stream depends on its position."""
    longest = streams[streams.norm(dim=1).argmax()][None]  # the stream of a padding token can be empty
    here, there = (_meeting(model, layer, longest, far)[0] for far in (0, 1))
    return not torch.allclose(here, there, rtol=1e-4, atol=1e-5)


def _scale(model: Model, layer: int, streams: Float[Tensor, "row d_model"]) -> float:
    """What attention multiplies the products of queries and keys with: the model's own scores by the products."""
    queries, keys = _meeting(model, layer, streams, 0)
    products = (queries * keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1)).sum(-1)
    site = f"layers.{layer}.attn.scores"
    edit = replace(f"layers.{layer}.resid_pre", streams[:, None].to(model.dtype))
    rows = torch.zeros(len(streams), 1, dtype=torch.long)
    scores = model.run(rows, read=[site], edits=[edit], logits=None)[site][:, :, 0, 0].float()
    return float((scores * products).sum() / products.pow(2).sum())
