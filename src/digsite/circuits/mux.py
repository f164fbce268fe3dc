"""The edge-mux: a forward pass in which every reader chooses, edge by edge, the live value of a writer or a donor's.

1. The rows are run once as they are; what an edge cannot reach is taken from that run (`Resumable`): all that comes
   before the first reader that is changed, and columns before the first at which the donor differs. So is what no
   circuit of the pass reads. Where no attention is left to run, the last columns are enough.
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
from itertools import chain

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from digsite._core.errors import ShapeMismatch, explain
from digsite.circuits.slopes import PARTS
from digsite.circuits.written import Outputs, Written, sites
from digsite.graphs import edge_space
from digsite.models import Edit, Model, Resumable, Tokens, apply
from digsite.models.resume import Branch

BYTES = 2**28
"""How much of what writers wrote a batch of circuits may hold."""
ALONE = 24
"""So many circuits get a pass of their own, which begins as late as theirs can; fewer join one that begins earlier."""

Masks = Float[Tensor, "circuit *place writer reader"] | Bool[Tensor, "circuit *place writer reader"]


class EdgeMux:
    """Some rows, and what takes the place of an edge's value on them.

    Args:
        model: The model.
        tokens: The rows that run.
        donor: What the writers wrote elsewhere: for each row, or one row for all. Tokens are run; None is zeros.
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
        donor: Tokens | Written | None,
        *,
        keep: int = 1,
        places: Int[Tensor, "batch pos"] | None = None,
    ):
        self.model, self.tokens, self.keep, self.places = model, tokens, keep, places
        self.space, self.outputs = edge_space(model), Outputs(model)
        self.base = Resumable(model, tokens, keep=keep, also=tuple(sites(model)), branches=True)
        self.logits = self.base.logits
        self.live = self.outputs.of(self.base.run)
        if donor is None:
            donor = self.live.map(lambda x: torch.zeros_like(x[:1]))
        elif isinstance(donor, Tokens):
            donor = self.outputs.of(model.run(donor, read=sites(model), logits=None))
        self._take(donor)
        self._stage_of_reader = torch.tensor([_stage(name, model.n_layers) for name in self.space.readers])

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
        for stage, circuits in self._together(self._stages(masks != 0)):
            if stage > 2 * self.model.n_layers:  # nothing is changed
                yield circuits.tolist(), self.logits.expand(len(circuits), *self.logits.shape)
                continue
            late = self._late(masks[circuits], stage)
            for which in circuits.split(late.at_once()):
                whole = len(which) == len(circuits)
                yield which.tolist(), self._run(late if whole else self._late(masks[which], stage))

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

    def _late(self, masks: Masks, stage: int) -> "Pass":
        layer = min(stage // 2, self.model.n_layers - 1)
        return Pass(self, masks, layer=layer, column=self.column, base=self.base)

    def _run(self, late: "Pass") -> Float[Tensor, "circuit batch columns vocab"]:
        times, idle = len(late.masks), late.idle if late.last < self.model.n_layers else None
        logits = self.base.edited(late.edits(), layer=late.layer, column=late.column, repeats=times, idle=idle)
        return logits.unflatten(0, (len(self.tokens), times)).transpose(0, 1)

    def _stages(self, changed: Bool[Tensor, "circuit *place writer reader"]) -> Tensor:
        """For each circuit the stage of the first reader that is changed; one more than there are where none is."""
        read = changed.flatten(1, -2).any(1)
        return torch.where(read, self._stage_of_reader, 2 * self.model.n_layers + 1).min(1).values

    def _together(self, stages: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Which circuits share passes: those that begin at one stage, and too few for a pass of their own wait for
        those that begin earlier."""
        waiting = torch.empty(0, dtype=torch.long)
        for stage in stages.unique().flip(0).tolist():
            waiting = torch.cat([waiting, (stages == stage).nonzero().flatten()])
            if len(waiting) >= ALONE or stage == stages.min() or stage > 2 * self.model.n_layers:
                yield stage, waiting
                waiting = waiting[:0]


class Pass:
    """One pass over rows that are repeated once for each mask: its edits, and the differences as they come up.

    Args:
        mux: Rows and donor.
        masks: For each circuit, how much of each edge is the donor's.
        layer: The first layer that runs.
        column: The first column that runs.
        base: The rows as they are, from which idle attention and MLPs are taken; None if all shall run.

    Attributes:
        idle: Attention and MLPs that no circuit reads, or before which nothing is changed.
        last: The last layer in which positions meet: behind it only the columns of the logits are needed. The number
            of layers if all shall run.
    """

    def __init__(self, mux: EdgeMux, masks: Masks, *, layer: int, column: int, base: Resumable | None = None):
        self.mux, self.layer, self.column = mux, layer, column
        self.masks = masks.to(mux.live.embed[0])
        self.reader = {name: i for i, name in enumerate(mux.space.readers)}
        self.writer = {name: i for i, name in enumerate(mux.space.writers)}
        # A mask that is 0 now may still want its gradient.
        changed = (self.masks != 0).flatten(0, -3).any(0)
        heard = self._heard()
        self.used = mux.space.real if self.masks.requires_grad else changed & heard
        self.idle, self.last = set(), mux.model.n_layers
        if base is not None:
            self.idle = self._idle(heard) & base.branches.keys()
            self.last = base.last_meeting(layer, self.idle)
        first = column if self.last >= layer else mux.tokens.ids.shape[1] - mux.keep
        self.places = None if masks.ndim == 3 or mux.places is None else mux.places[:, first:]
        self.live, self.donor = mux.live.columns(first), mux.donor.columns(first)
        self.differences: list[tuple[list[int], Tensor, bool]] = []  # of writers; whether it is one for all circuits
        self.stream = torch.empty(0)

    def at_once(self) -> int:
        """How many circuits may share such a pass: what the components that it leaves out wrote is there once for all
        of them."""
        space = self.mux.space
        runs = [branch for branch in self._branches() if branch not in self.idle]
        written = sum(int(self.used[_of(space.writers, branch)].any(1).sum()) for branch in runs)
        read = max((int(self.used[:, _of(space.readers, branch)].any(0).sum()) for branch in runs), default=0)
        rows, width = self.mux.tokens.ids.shape
        each = rows * (width - self.column) * self.mux.model.d_model * (written + read + 2) * 4
        return max(1, BYTES // each)

    def _branches(self) -> list[Branch]:
        return [(layer, name) for layer in range(self.layer, self.mux.model.n_layers) for name in ("attn", "mlp")]

    def _idle(self, heard: Bool[Tensor, " reader"]) -> set[Branch]:
        """Attention and MLPs that nobody hears, or before which nothing is changed."""
        idle, changed = set(), False
        for branch in self._branches():
            own = _of(self.mux.space.readers, branch)
            changed = changed or bool(self.used[:, own].any())
            if not changed or not bool(heard[own].any()):
                idle.add(branch)
        return idle

    def _heard(self) -> Bool[Tensor, " reader"]:
        """Readers of components whose live output some circuit reads: what the others read changes nothing."""
        space = self.mux.space
        live = ((self.masks != 1) & space.real.to(self.masks.device)).any(-1).flatten(0, -2).any(0)
        for layer, norm in enumerate(self.mux.outputs.norms):
            if norm is not None:  # its scale hears all heads
                heads = _of(space.writers, (layer, "attn"))
                live[heads] = live[heads].any()
        return (space.inputs.to(live.device) & live[:, None]).any(0) | ~space.inputs.any(0).to(live.device)

    def _before(self) -> None:
        """The differences of writers that this pass does not run: the same for all circuits."""
        for i, (theirs, ours) in enumerate(zip(self.donor.embed, self.live.embed, strict=True)):
            self._keep(i, (theirs - ours).unsqueeze(1), shared=True)
        for layer in range(self.mux.model.n_layers):
            if layer < self.layer or (layer, "attn") in self.idle:
                self._heads(self.live.z[layer], layer=layer, shared=True)
            if layer < self.layer or (layer, "mlp") in self.idle:
                self._mlp(self.live.mlp[layer], layer=layer, shared=True)
        if self.differences:
            writers, values, _ = zip(*self.differences, strict=True)
            self.differences = [(list(chain(*writers)), torch.cat(values, 1), True)]

    def edits(self) -> list[Edit]:
        """The pass as edits, in the order in which sites fire."""
        self._before()
        found = []
        for layer in range(self.layer, self.mux.model.n_layers):
            site = f"layers.{layer}."
            if (layer, "attn") not in self.idle:
                found.append(apply(f"{site}resid_pre", self._remember))
                found += [apply(f"{site}attn.{p}", partial(self._read_heads, layer=layer, part=p)) for p in PARTS]
                found.append(apply(f"{site}attn.z", partial(self._write_heads, layer=layer)))
            if (layer, "mlp") not in self.idle:
                found.append(apply(f"{site}mlp.in", partial(self._read, layer=layer, reader=f"{site}mlp.in")))
                found.append(apply(f"{site}mlp.out", partial(self._write_mlp, layer=layer)))
        last = self.mux.model.n_layers - 1
        return [*found, apply(f"layers.{last}.resid_post", partial(self._read, layer=last, reader="logits"))]

    # -- readers -----------------------------------------------------------------------------------------------------
    def _remember(self, x: Tensor) -> Tensor:
        self.stream = x
        return x

    def _needed(self, x: Tensor, layer: int) -> int:
        """How many columns anything still reads at the end of a layer."""
        return min(self.mux.keep, x.shape[1]) if layer >= self.last else x.shape[1]

    def _read(self, x: Tensor, *, layer: int, reader: str) -> Tensor:
        columns = self._needed(x, layer)
        change = self._change([self.reader[reader]], self.masks, columns)
        return x if change is None else x + pad(change.squeeze(1), (0, 0, x.shape[1] - columns, 0))

    def _read_heads(self, x: Tensor, *, layer: int, part: str) -> Tensor:
        """Queries, keys or values; those of heads with a donor's edge are computed from their own stream."""
        first = self.reader[f"layers.{layer}.attn.{part}_in[0]"]
        heads = self.used[:, first : first + x.shape[2]].any(0).nonzero().flatten().tolist()
        if not heads:
            return x
        readers, masks, stream, of = [first + head for head in heads], self.masks, self.stream, None
        if layer == self.layer and len(masks) > 1:  # circuits differ in these masks alone
            masks, of = self._distinct(readers)
            stream = stream[:: len(self.masks)].repeat_interleave(len(masks), 0)
        change = self._change(readers, masks, x.shape[1])
        if change is None:
            return x
        weights = self.mux.model.weights
        weight, bias = (getattr(weights, f"{name}_{part.upper()}") for name in "Wb")
        norm = weights.norm(layer, "attn")
        stream = stream.unsqueeze(1) + change
        made = torch.einsum("brpd,rdk->bprk", stream if norm is None else norm(stream), weight[layer][heads])
        if layer in bias:
            made = made + bias[layer][heads]
        if of is not None:
            made = made.unflatten(0, (-1, len(masks)))[:, of].flatten(0, 1)
        if len(heads) == x.shape[2]:
            return made
        out = x.clone()
        out[:, :, heads] = made
        return out

    def _distinct(self, readers: Sequence[int]) -> tuple[Tensor, Int[Tensor, " circuit"]]:
        """The masks that differ in some readers, and which of them each circuit has."""
        _, of = self.masks[..., readers].flatten(1).unique(dim=0, return_inverse=True)
        example = torch.zeros(int(of.max()) + 1, dtype=torch.long, device=of.device)
        example[of] = torch.arange(len(of), device=of.device)
        return self.masks[example], of

    def _change(
        self, readers: Sequence[int], masks: Tensor, columns: int
    ) -> Float[Tensor, "batch reader pos d_model"] | None:
        """Σ mask · difference for some readers of one layer, at the last columns."""
        total = None
        for writers, difference, shared in self.differences:
            if not bool(self.used[writers][:, readers].any()):
                continue
            mask = masks[..., writers, :][..., readers].mT  # [circuit, reader, writer], or [circuit, place, ...]
            difference = difference[:, :, -columns:]
            made = (self._everywhere if self.places is None else self._placed)(mask, difference, shared)
            made = made.reshape(-1, len(readers), *difference.shape[2:])
            total = made if total is None else total.add_(made)
        return total

    def _everywhere(self, mask: Tensor, difference: Tensor, shared: bool) -> Tensor:  # noqa: FBT001
        """Σ mask · difference with one mask for all positions."""
        values = difference.flatten(2)
        return mask.flatten(0, 1) @ values if shared else mask @ values.unflatten(0, (-1, len(mask)))

    def _placed(self, mask: Tensor, difference: Tensor, shared: bool) -> Tensor:  # noqa: FBT001
        """5. Σ mask · difference with the mask of each position's place: [row, circuit, reader, pos, d_model]."""
        assert self.places is not None
        here = mask[:, self.places[:, -difference.shape[2] :]].movedim(0, 1)  # [row, circuit, pos, reader, writer]
        values = difference.unsqueeze(1) if shared else difference.unflatten(0, (-1, len(mask)))
        return (here @ values.transpose(2, 3)).transpose(2, 3)

    # -- writers -----------------------------------------------------------------------------------------------------
    def _write_heads(self, z: Tensor, *, layer: int) -> Tensor:
        factor = self.mux.outputs.factor(layer, z[:, -self._needed(z, layer) :])
        self._heads(factor, layer=layer, shared=False)
        return z

    def _heads(self, factor: Tensor, *, layer: int, shared: bool) -> None:
        first = self.writer[f"layers.{layer}.attn.result[0]"]
        if bool(self.used[first : first + factor.shape[2]].any()):
            difference = self._spread(self.donor.z[layer], factor) - factor
            self._keep(first, self.mux.outputs.heads(layer, difference), shared=shared)

    def _write_mlp(self, x: Tensor, *, layer: int) -> Tensor:
        self._mlp(x[:, -self._needed(x, layer) :], layer=layer, shared=False)
        return x

    def _mlp(self, x: Tensor, *, layer: int, shared: bool) -> None:
        writer = self.writer[f"layers.{layer}.mlp.out"]
        if bool(self.used[writer].any()):
            self._keep(writer, (self._spread(self.donor.mlp[layer], x) - x).unsqueeze(1), shared=shared)

    def _spread(self, donor: Tensor, like: Tensor) -> Tensor:
        """The donor's rows, each once for every circuit, at the same columns."""
        donor = donor[:, -like.shape[1] :]
        return donor if len(donor) in (1, len(like)) else donor.repeat_interleave(len(like) // len(donor), 0)

    def _keep(self, first: int, difference: Tensor, *, shared: bool) -> None:
        writers = list(range(first, first + difference.shape[1]))
        if bool(self.used[writers].any()):
            rows = len(self.mux.tokens)
            self.differences.append((writers, difference.expand(rows, -1, -1, -1) if shared else difference, shared))


def _stage(reader: str, n_layers: int) -> int:
    """When in a pass something is read: attention of each layer, its MLP, and so on; the logits last."""
    if not reader.startswith("layers."):
        return 2 * n_layers
    _, layer, component, _ = reader.split(".", 3)
    return 2 * int(layer) + (component == "mlp")


def _of(names: Sequence[str], branch: Branch) -> list[int]:
    """The readers or writers of attention or an MLP."""
    prefix = "layers.{}.{}.".format(*branch)
    return [i for i, name in enumerate(names) if name.startswith(prefix)]


def _first_difference(tokens: Tokens, live: Written, donor: Written) -> int:
    """The first column at which a donor differs from the rows, where they have a token at all."""
    differs = torch.zeros(tokens.mask.shape[1], dtype=torch.bool)
    for ours, theirs in zip((*live.embed, *live.z, *live.mlp), (*donor.embed, *donor.z, *donor.mlp), strict=True):
        # What padding computes depends on later tokens, and nothing ever reads it.
        differs |= ((ours != theirs).flatten(2).any(2).cpu() & tokens.mask.cpu()).any(0)
    return int(differs.int().argmax()) if bool(differs.any()) else len(differs) - 1
