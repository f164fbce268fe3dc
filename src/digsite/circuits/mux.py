"""The edge-mux: a forward pass in which every reader chooses, edge by edge, the live value of a writer or a donor's.

1. The rows are run once as they are; what an edge cannot reach is taken from that run (`Resumable`): layers below the
   first reader that is changed, and columns before the first at which the donor differs.
2. Each row is repeated once for each circuit of a batch. As the pass goes on, what every writer writes live is compared
   with the donor's: difference = donor − live.
3. The input of a reader is the stream plus Σ mask[writer, reader] · difference: the edges of the mask carry the donor's
   value, all others the live one. Heads whose edges are all live are left as the model computed them.
4. Everything downstream sees it, so what a circuit's edges carry is live ("tree" semantics in auto-circuit's words).
5. Where edges are meant at places (see `places`), each position has the mask of its place.

The masks may be numbers between 0 and 1, and gradients flow to them.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite._core.errors import ShapeMismatch, explain
from digsite.circuits.slopes import PARTS
from digsite.circuits.written import Outputs, Written, sites
from digsite.graphs import edge_space
from digsite.models import Edit, Model, Resumable, Tokens, apply

BYTES = 2**28
"""How much of what writers wrote a batch of circuits may hold."""

Masks = Float[Tensor, "circuit *place writer reader"] | Bool[Tensor, "circuit *place writer reader"]


class EdgeMux:
    """Some rows, and what takes the place of an edge's value on them.

    Args:
        model: The model.
        tokens: The rows that run.
        donor: What the writers wrote elsewhere: for each row, or one row for all. Tokens are run.
        keep: How many of the last columns of the logits are wanted.
        places: The number of the place to which each position belongs, if masks have a place axis.

    Attributes:
        space: The edges.
        logits: Of the rows as they are.
        live: What the writers write on the rows as they are.
        donor: What they wrote elsewhere.
    """

    def __init__(
        self,
        model: Model,
        tokens: Tokens,
        donor: Tokens | Written,
        *,
        keep: int = 1,
        places: Int[Tensor, "batch pos"] | None = None,
    ):
        self.model, self.tokens, self.keep, self.places = model, tokens, keep, places
        self.space, self.outputs = edge_space(model), Outputs(model)
        self.base = Resumable(model, tokens, keep=keep, also=tuple(sites(model)))
        self.logits = self.base.logits
        self.live = self.outputs.of(self.base.run)
        if isinstance(donor, Tokens):
            donor = self.outputs.of(model.run(donor, read=sites(model), logits=None))
        self._take(donor)
        self._layer_of_reader = torch.tensor(
            [
                int(name.split(".")[1]) if name.startswith("layers") else model.n_layers - 1
                for name in self.space.readers
            ]
        )

    def _take(self, donor: Written) -> None:
        wrong = [tuple(x.shape) for x in donor.embed if x.shape[1:] != self.live.embed[0].shape[1:]]
        if wrong:
            raise ShapeMismatch(
                explain(
                    "The donor does not fit the rows: edges join what stands at the same position",
                    found=f"a donor {wrong[0]} for rows {tuple(self.live.embed[0].shape)}",
                )
            )
        self.donor = donor
        self.column = self.base.start(_first_difference(self.tokens, self.live, donor))

    def with_donor(self, donor: Written) -> "EdgeMux":
        """The same rows, whose runs are shared, and something else in the place of an edge's value."""
        other = copy(self)
        other._take(donor)
        return other

    def __call__(self, masks: Masks) -> Iterator[tuple[list[int], Float[Tensor, "circuit batch columns vocab"]]]:
        """Logits under each mask, a batch of circuits at a time: which circuits, and their logits.

        Args:
            masks: For each circuit (and place), which edges carry the donor's value.
        """
        masks = masks * self.space.real
        # Circuits that begin at the same layer share passes.
        first = self._first_layers(masks != 0)
        for layer in first.unique().tolist():
            for which in (first == layer).nonzero().flatten().split(self._circuits_at_once(layer)):
                yield which.tolist(), self._pass(masks[which], layer)

    def scored(
        self, masks: Masks, score: Callable[[Tensor], Float[Tensor, "circuit example"]], examples: int
    ) -> Float[Tensor, "circuit example"]:
        """What a metric says of the logits under each mask, in the order of the masks; logits are not kept.

        Args:
            masks: As for a call.
            score: From logits [circuit, batch, columns, vocab] to one number for each circuit and example.
            examples: How many there are.
        """
        found = torch.empty(len(masks), examples)
        for which, logits in self(masks):
            found[which] = score(logits).float().cpu()
        return found

    def graded(self, mask: Float[Tensor, "*place writer reader"]) -> Float[Tensor, "batch columns vocab"]:
        """Logits under one mask of numbers, on the autograd path to it: every layer and column runs.

        Args:
            mask: How much of each edge is the donor's, everywhere or at each place.
        """
        edits = Pass(self, (mask * self.space.real).unsqueeze(0), layer=0, column=0).edits()
        return self.model.run(self.tokens, edits=edits, logits=self.keep, grad=True).logits

    def _pass(self, masks: Masks, layer: int) -> Float[Tensor, "circuit batch columns vocab"]:
        if layer == self.model.n_layers:  # nothing is changed
            return self.logits.expand(len(masks), *self.logits.shape)
        edits = Pass(self, masks, layer=layer, column=self.column).edits()
        logits = self.base.edited(edits, layer=layer, column=self.column, repeats=len(masks))
        return logits.unflatten(0, (len(self.tokens), len(masks))).transpose(0, 1)

    def _first_layers(self, changed: Bool[Tensor, "circuit *place writer reader"]) -> Tensor:
        """For each circuit the first layer in which a reader is changed; the number of layers where none is."""
        read = changed.flatten(1, -2).any(1)
        return torch.where(read, self._layer_of_reader, self.model.n_layers).min(1).values

    def _circuits_at_once(self, layer: int) -> int:
        """How many circuits share a pass that begins at a layer: what earlier ones wrote is there once for all."""
        writers = sum(name.startswith("layers.") and int(name.split(".")[1]) >= layer for name in self.space.writers)
        rows, width = self.tokens.ids.shape
        heads = self.model.n_heads + 2 * self.model.n_kv_heads
        each = rows * (width - self.column) * self.model.d_model * (writers + 3 * heads) * 4
        return max(1, BYTES // each)


class Pass:
    """One pass over rows that are repeated once for each mask: its edits, and the differences as they come up.

    Args:
        mux: Rows and donor.
        masks: For each circuit, how much of each edge is the donor's.
        layer: The first layer that runs.
        column: The first column that runs.
    """

    def __init__(self, mux: EdgeMux, masks: Masks, *, layer: int, column: int):
        self.mux, self.layer, self.column = mux, layer, column
        self.masks = masks.to(mux.live.embed[0])
        self.places = None if masks.ndim == 3 or mux.places is None else mux.places[:, column:]
        # A mask that is 0 now may still want its gradient.
        changed = (self.masks != 0).flatten(0, -3).any(0)
        self.used = mux.space.real if self.masks.requires_grad else changed & self._heard()
        self.donor = mux.donor.columns(column)
        self.differences: list[
            tuple[int, Tensor, bool]
        ] = []  # first writer, [row, writer, pos, d_model], for all circuits
        self.reader = {name: i for i, name in enumerate(mux.space.readers)}
        self.writer = {name: i for i, name in enumerate(mux.space.writers)}
        self.stream = torch.empty(0)
        self._before(mux.live.columns(column))

    def _heard(self) -> Bool[Tensor, " reader"]:
        """Readers of components whose live output some circuit reads: what the others read changes nothing."""
        space = self.mux.space
        live = ((self.masks != 1) & space.real.to(self.masks.device)).any(-1).flatten(0, -2).any(0)
        return (space.inputs.to(live.device) & live[:, None]).any(0) | ~space.inputs.any(0).to(live.device)

    def _before(self, live: Written) -> None:
        """The differences of writers that this pass does not run: the same for all circuits."""
        for i, (theirs, ours) in enumerate(zip(self.donor.embed, live.embed, strict=True)):
            self._keep(i, (theirs - ours).unsqueeze(1), shared=True)
        for layer in range(self.layer):
            self._heads(live.z[layer], layer=layer, shared=True)
            self._mlp(live.mlp[layer], layer=layer, shared=True)

    def edits(self) -> list[Edit]:
        """The pass as edits, in the order in which sites fire."""
        found = []
        for layer in range(self.layer, self.mux.model.n_layers):
            site = f"layers.{layer}."
            found.append(apply(f"{site}resid_pre", self._remember))
            found += [apply(f"{site}attn.{p}", partial(self._read_heads, layer=layer, part=p)) for p in PARTS]
            found.append(apply(f"{site}attn.z", partial(self._write_heads, layer=layer)))
            found.append(apply(f"{site}mlp.in", partial(self._read, reader=f"{site}mlp.in")))
            found.append(apply(f"{site}mlp.out", partial(self._write_mlp, layer=layer)))
        last = self.mux.model.n_layers - 1
        return [*found, apply(f"layers.{last}.resid_post", partial(self._read, reader="logits"))]

    # -- readers -----------------------------------------------------------------------------------------------------
    def _remember(self, x: Tensor) -> Tensor:
        self.stream = x
        return x

    def _read(self, x: Tensor, *, reader: str) -> Tensor:
        change = self._change([self.reader[reader]])
        return x if change is None else x + change.squeeze(1)

    def _read_heads(self, x: Tensor, *, layer: int, part: str) -> Tensor:
        """Queries, keys or values; those of heads with a donor's edge are computed from their own stream."""
        first = self.reader[f"layers.{layer}.attn.{part}_in[0]"]
        heads = self.used[:, first : first + x.shape[2]].any(0).nonzero().flatten().tolist()
        change = self._change([first + head for head in heads])
        if change is None:
            return x
        weights = self.mux.model.weights
        weight, bias = (getattr(weights, f"{name}_{part.upper()}") for name in "Wb")
        norm = weights.norm(layer, "attn")
        stream = self.stream.unsqueeze(1) + change
        made = torch.einsum("brpd,rdk->bprk", stream if norm is None else norm(stream), weight[layer][heads])
        if layer in bias:
            made = made + bias[layer][heads]
        if len(heads) == x.shape[2]:
            return made
        out = x.clone()
        out[:, :, heads] = made
        return out

    def _change(self, readers: Sequence[int]) -> Float[Tensor, "batch reader pos d_model"] | None:
        """Σ mask · difference for some readers of one layer."""
        total = None
        for first, difference, shared in self.differences:
            writers = slice(first, first + difference.shape[1])
            if not readers or not bool(self.used[writers, readers].any()):
                continue
            mask = self.masks[..., writers, readers].mT  # [circuit, reader, writer], or [circuit, place, ...]
            made = (self._everywhere if self.places is None else self._placed)(mask, difference, shared)
            made = made.reshape(-1, len(readers), *difference.shape[2:])
            total = made if total is None else total + made
        return total

    def _everywhere(self, mask: Tensor, difference: Tensor, shared: bool) -> Tensor:  # noqa: FBT001
        """Σ mask · difference with one mask for all positions."""
        values = difference.flatten(2)
        return mask.flatten(0, 1) @ values if shared else mask @ values.unflatten(0, (-1, len(mask)))

    def _placed(self, mask: Tensor, difference: Tensor, shared: bool) -> Tensor:  # noqa: FBT001
        """5. Σ mask · difference with the mask of each position's place: [row, circuit, reader, pos, d_model]."""
        assert self.places is not None
        here = mask[:, self.places].movedim(0, 1)  # [row, circuit, pos, reader, writer]
        values = difference.unsqueeze(1) if shared else difference.unflatten(0, (-1, len(mask)))
        return (here @ values.transpose(2, 3)).transpose(2, 3)

    # -- writers -----------------------------------------------------------------------------------------------------
    def _write_heads(self, z: Tensor, *, layer: int) -> Tensor:
        self._heads(self.mux.outputs.factor(layer, z), layer=layer, shared=False)
        return z

    def _heads(self, factor: Tensor, *, layer: int, shared: bool) -> None:
        first = self.writer[f"layers.{layer}.attn.result[0]"]
        if bool(self.used[first : first + factor.shape[2]].any()):
            difference = self._spread(self.donor.z[layer], factor) - factor
            self._keep(first, self.mux.outputs.heads(layer, difference), shared=shared)

    def _write_mlp(self, x: Tensor, *, layer: int) -> Tensor:
        self._mlp(x, layer=layer, shared=False)
        return x

    def _mlp(self, x: Tensor, *, layer: int, shared: bool) -> None:
        writer = self.writer[f"layers.{layer}.mlp.out"]
        if bool(self.used[writer].any()):
            self._keep(writer, (self._spread(self.donor.mlp[layer], x) - x).unsqueeze(1), shared=shared)

    def _spread(self, donor: Tensor, like: Tensor) -> Tensor:
        """The donor's rows, each once for every circuit."""
        return donor if len(donor) in (1, len(like)) else donor.repeat_interleave(len(like) // len(donor), 0)

    def _keep(self, first: int, difference: Tensor, *, shared: bool) -> None:
        if bool(self.used[first : first + difference.shape[1]].any()):
            rows = len(self.mux.tokens)
            self.differences.append((first, difference.expand(rows, -1, -1, -1) if shared else difference, shared))


def _first_difference(tokens: Tokens, live: Written, donor: Written) -> int:
    """The first column at which a donor differs from the rows, where they have a token at all."""
    differs = torch.zeros(tokens.mask.shape[1], dtype=torch.bool)
    for ours, theirs in zip((*live.embed, *live.z, *live.mlp), (*donor.embed, *donor.z, *donor.mlp), strict=True):
        # What padding computes depends on later tokens, and nothing ever reads it.
        differs |= ((ours != theirs).flatten(2).any(2).cpu() & tokens.mask.cpu()).any(0)
    return int(differs.int().argmax()) if bool(differs.any()) else len(differs) - 1
