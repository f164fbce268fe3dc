"""`Dictionary`: blocks that read columns and write columns through sparse latents.

1. What is read is normalised row by row where its column says so, and divided by the column's scale; a centred block
   takes off the bias of what it writes.
2. A block's pre-activations are the sum of its encoders over what it reads, and a bias.
3. Its activation selects the latents.
4. Each written column is the sum, over the blocks that write it, of what their decoders make of the latents, the skip,
   the bias, and where there is one the vector of the token; it is multiplied by the column's scale, and brought back
   to the row's own mean and length where those were taken off.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite.dictionaries import kernels
from digsite.dictionaries.activations import BatchTopK
from digsite.dictionaries.config import BlockConfig, Column, DictionaryConfig
from digsite.dictionaries.decoders import Maps, Matrices, Thin, decoder_of, parameters
from digsite.models.identity import fingerprint
from digsite.store import Latents, Rows

Read = Mapping[str, Tensor]


_EPSILON = 1e-5
"""What a layer norm adds to the standard deviation."""


class Block(nn.Module):
    """One encoder, its activation, and the decoders of what it writes.

    Attributes:
        config: What it is.
        W_enc: A matrix [latent, width] for each column it reads.
        b_enc: The bias of the pre-activations, [latent].
        decoder: See `decoders`.
        W_skip: The dense map [d_out, d_in] to each column, where there is a skip.
    """

    W_enc: Sequence[Tensor]
    decoder: Matrices | Thin | Maps
    W_skip: Sequence[Tensor] | None

    def __init__(self, config: BlockConfig, columns: Mapping[str, Column], targets: dict[str, nn.Parameter]):
        super().__init__()
        self.config = config
        self.W_enc = parameters(torch.zeros(config.latents, columns[name].width) for name in config.reads)
        self.b_enc = nn.Parameter(torch.zeros(config.latents))
        self.decoder = decoder_of(config, columns, targets)
        for name, start in config.activation.initial(config.latents).items():
            if config.activation.kind == "batchtopk":
                self.register_buffer(name, start)  # follows the data, not a gradient
            else:
                self.register_parameter(name, nn.Parameter(start))
        wide = columns[config.reads[0]].width
        maps = (torch.zeros(columns[name].width, wide) for name in config.writes)
        self.W_skip = parameters(maps) if config.skip else None

    def own(self, name: str) -> Tensor:
        """What its activation learns."""
        return getattr(self, name)

    def pre(self, x: Sequence[Float[Tensor, "row _"]]) -> Float[Tensor, "row latent"]:
        """The pre-activations of all latents."""
        total = torch.addmm(self.b_enc, x[0], self.W_enc[0].T)
        for other, W in zip(x[1:], self.W_enc[1:], strict=True):
            total = total + other @ W.T
        return total

    def select(self, x: Sequence[Float[Tensor, "row _"]], pre: Float[Tensor, "row latent"] | None = None) -> Latents:
        """The latents.

        Args:
            x: What its encoders read.
            pre: All pre-activations, where they are held anyway; without them no more than a few rows' ever are.
        """
        activation = self.config.activation
        if isinstance(activation, BatchTopK) and self.training:
            weights, count = self.norms().detach() if activation.by_norm else None, activation.k * len(x[0])
            if pre is None:
                return kernels.encode_top_entries(x, list(self.W_enc), self.b_enc, count, weights)
            where = kernels.top_entries(pre.detach() if weights is None else pre.detach() * weights, count)
        elif pre is None:
            found = kernels.encode(x, list(self.W_enc), self.b_enc, lambda some: activation.choose(some, self))
            return found.with_values(activation.value(found, self))
        else:
            where = activation.choose(pre.detach(), self)
        found = where.with_values(pre[where.rows, where.flat[1]])
        return found.with_values(activation.value(found, self))

    def W_dec(self, column: str) -> Float[Tensor, "latent d"]:
        """What every latent writes to a column, in normalised units."""
        return self.decoder.matrix(self.config.writes.index(column))

    def norms(self, *, over: str = "all") -> Float[Tensor, " latent"]:
        """The length of what every latent writes.

        Args:
            over: "all" takes all columns as one vector; "sum" adds up the lengths of the columns.
        """
        each = torch.stack([self.W_dec(name).norm(dim=1) for name in self.config.writes])
        return each.sum(0) if over == "sum" else each.norm(dim=0)

    def write(self, latents: Latents, column: str, x: Float[Tensor, "row _"] | None) -> Float[Tensor, "row d"]:
        """What the block adds to a column, in normalised units; a skip and linear maps need x, the column it reads."""
        return self.add(latents, column, x) + self.skipped(column, x)

    def add(self, latents: Latents, column: str, x: Float[Tensor, "row _"] | None) -> Float[Tensor, "row d"]:
        """What the latents alone add to a column, in normalised units."""
        if x is None and (self.W_skip is not None or isinstance(self.decoder, Maps)):
            raise BadInput(explain("This dictionary decodes with what it has read", do="decode(latents, rows)"))
        return self.decoder(latents, self.config.writes.index(column), x)

    def skipped(self, column: str, x: Float[Tensor, "row _"] | None) -> Float[Tensor, "row d"] | float:
        """What the skip adds to a column, in normalised units; nothing where there is none."""
        if self.W_skip is None or x is None:
            return 0.0
        return x @ self.W_skip[self.config.writes.index(column)].T


class Pass(NamedTuple):
    """What one pass through a dictionary gave; everything in normalised units, on the autograd path.

    Attributes:
        inputs: What each block reads, column by column, centred where the block is.
        pre: The pre-activations of every block; None where they were not asked for.
        latents: Of every block.
        outputs: Each written column as the dictionary makes it.
        targets: Each written column as it should be.
    """

    inputs: list[list[Tensor]]
    pre: list[Tensor | None]
    latents: list[Latents]
    outputs: dict[str, Tensor]
    targets: dict[str, Tensor]


class Dictionary(nn.Module):
    """Blocks that read columns and write columns through sparse latents; see `config` for the families.

    A new dictionary is all zeros: `initialise` it, `train` it, or `load` one.

    Attributes:
        config: What it is.
        blocks: Its blocks.
        b_dec: The bias of every written column, in normalised units.
        tokens: The token table of every written column, [vocab, d], where there is one.
        slices: Over how many processes its latents are shared out; 0 where they are all here.
    """

    blocks: Sequence[Block]
    b_dec: Sequence[Tensor]
    tokens: Sequence[Tensor] | None
    slices = 0

    def __init__(self, config: DictionaryConfig):
        super().__init__()
        self.config = config
        targets: dict[str, nn.Parameter] = {}
        blocks: Any = nn.ModuleList(Block(block, config.columns, targets) for block in config.blocks)
        self.blocks = blocks
        self.b_dec = parameters(torch.zeros(config.columns[name].width) for name in config.writes)
        tables = (torch.zeros(config.tokens, config.columns[name].width) for name in config.writes)
        self.tokens = parameters(tables) if config.tokens else None

    # -- facts -----------------------------------------------------------------------------------------------------
    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return self.config.reads

    @property
    def writes(self) -> tuple[str, ...]:
        """The columns that it writes."""
        return self.config.writes

    @property
    def routes(self) -> list[tuple[str, str]]:
        """What each block reads, and the first column it writes; empty unless each reads one and writes others."""
        blocks = self.config.blocks
        apart = all(block.reads == block.reads[:1] and not {*block.reads} & {*block.writes} for block in blocks)
        return [(block.reads[0], block.writes[0]) for block in blocks] if apart else []

    @property
    def width(self) -> int:
        """Latents of all blocks together."""
        return sum(block.latents for block in self.config.blocks)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that identify its parameters as they are now."""
        return fingerprint(self)

    def bias(self, column: str) -> Float[Tensor, " d"]:
        """The bias of a written column, in normalised units."""
        return self.b_dec[self.writes.index(column)]

    def directions(self, column: str, block: int = 0) -> Float[Tensor, "latent d"]:
        """What every latent of a block writes to a column, in the units of the model."""
        return self.blocks[block].W_dec(column) * self.config.columns[column].scale

    # -- the whole way ---------------------------------------------------------------------------------------------
    def encode(self, rows: Read) -> list[Latents]:
        """The latents of every block.

        Args:
            rows: Activations [row, width] by column, in the units of the model.

        Raises:
            BadInput: A column is missing.
            ShapeMismatch: A column has another width.
        """
        return [self.selected(block, self.inputs(block, rows)) for block in self.blocks]

    def decode(self, latents: Sequence[Latents], rows: Read | None = None) -> dict[str, Float[Tensor, "row d"]]:
        """What the latents write to every column, in the units of the model.

        Args:
            latents: Of every block.
            rows: What was read; only a skip, linear maps as latents, a token table, or a norm of each row need it.
        """
        made = self._written(latents, rows)
        return {name: self.in_model_units(name, x, rows) for name, x in made.items()}

    def column(self, name: str, latents: Sequence[Latents | None], rows: Read | None = None) -> Float[Tensor, "row d"]:
        """What the latents write to one column, in the units of the model.

        Args:
            name: A column that it writes.
            latents: Of every block; those of a block that does not write the column may be None.
            rows: What those blocks read.
        """
        return self.in_model_units(name, self._column(name, latents, rows), rows)

    def forward(self, rows: Read) -> dict[str, Float[Tensor, "row d"]]:
        """What the dictionary makes of what it reads, column by column, in the units of the model."""
        return self.decode(self.encode(rows), rows)

    def run(self, rows: Read, *, pre: bool = False) -> Pass:
        """One pass with everything that a loss may look at.

        Args:
            rows: Activations by column: what is read and what should be written.
            pre: Whether all pre-activations are kept.
        """
        inputs = [self.inputs(block, rows) for block in self.blocks]
        full = [block.pre(x) if pre else None for block, x in zip(self.blocks, inputs, strict=True)]
        latents = [self.selected(block, x, p) for block, x, p in zip(self.blocks, inputs, full, strict=True)]
        targets = {name: self._normal(name, rows) for name in self.writes}
        return Pass(inputs, full, latents, self._written(latents, rows), targets)

    # -- steps -----------------------------------------------------------------------------------------------------
    def inputs(self, block: Block, rows: Read) -> list[Float[Tensor, "row _"]]:
        """What a block's encoder sees: normalised, and centred where it is (1)."""
        seen = [self._normal(name, rows) for name in block.config.reads]
        if not block.config.centred:
            return seen
        both = zip(block.config.reads, seen, strict=True)
        return [x - self.bias(name) if name in self.writes else x for name, x in both]

    def in_model_units(self, name: str, x: Float[Tensor, "row d"], rows: Read | None) -> Float[Tensor, "row d"]:
        """What is written to a column, from normalised units to those of the model (4)."""
        column = self.config.columns[name]
        if column.each_row == "as it is":
            return x * column.scale
        if rows is None or name not in rows:
            asked = f"What is written to {name} goes back to each row's own mean and length"
            raise BadInput(explain(asked, found="no rows of it", do="decode(latents, rows)"))
        shift, size = _own_numbers(rows[name], column)
        return x * column.scale * size + shift

    def _normal(self, name: str, rows: Read) -> Tensor:
        if name not in rows:
            raise BadInput(explain(f"The dictionary needs the column {name}", possible=list(rows), near=name))
        x, column = rows[name], self.config.columns[name]
        if x.ndim != 2 or x.shape[1] != column.width:
            asked = f"The dictionary takes {name} as rows of {column.width} numbers"
            raise ShapeMismatch(explain(asked, found=f"{list(x.shape)}", do="Use a dictionary made for this site"))
        if column.each_row != "as it is":
            shift, size = _own_numbers(x, column)
            x = (x - shift) / (size + _EPSILON if column.each_row == "layer norm" else size.clamp_min(1e-30))
        return x if column.scale == 1 else x / column.scale

    def _written(self, latents: Sequence[Latents | None], rows: Read | None) -> dict[str, Tensor]:
        return {name: self._column(name, latents, rows) for name in self.writes}

    def _column(self, name: str, latents: Sequence[Latents | None], rows: Read | None) -> Tensor:
        made: Tensor | None = None
        rest = self.bias(name) + self._of_tokens(name, rows)
        for block, active in zip(self.blocks, latents, strict=True):
            if name in block.config.writes:
                x = None if rows is None else self._normal(block.config.reads[0], rows)
                added = block.add(active, name, x)  # pyright: ignore[reportArgumentType]
                made = added if made is None else made + added
                rest = rest + block.skipped(name, x)
        assert made is not None, "every column that is written has a block that writes it"
        return self.summed(made) + rest

    def summed(self, made: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """What all latents write, from what those that are here do: all are here, unless they are `parallel.Sliced`."""
        return made

    def selected(self, block: Block, x: Sequence[Tensor], pre: Tensor | None = None) -> Latents:
        """The latents of a block; where latents are `parallel.Sliced`, those of this slice that fire among all."""
        return block.select(x, pre)

    def _of_tokens(self, name: str, rows: Read | None) -> Tensor | float:
        if self.tokens is None:
            return 0.0
        if not isinstance(rows, Rows) or rows.ids is None:
            raise BadInput(
                explain("A dictionary with a token table needs the tokens of the rows", do="give Rows with ids")
            )
        return self.tokens[self.writes.index(name)][rows.ids]

    def __repr__(self) -> str:
        blocks = self.config.blocks
        kinds = ", ".join(dict.fromkeys(block.activation.kind for block in blocks))
        route = f"{', '.join(self.reads)} → {', '.join(self.writes)}" if len(blocks) == 1 else f"{len(blocks)} blocks"
        return f"Dictionary {self.config.family} ({kinds}): {route}, {self.width} latents"


def _own_numbers(x: Float[Tensor, "row d"], column: Column) -> tuple[Tensor | float, Float[Tensor, "row 1"]]:
    """What is taken off each row, and what it is divided by."""
    if column.each_row == "length":
        return 0.0, x.norm(dim=1, keepdim=True) / math.sqrt(column.width)
    return x.mean(1, keepdim=True), x.std(1, keepdim=True)
