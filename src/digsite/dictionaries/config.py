"""What a dictionary is, as plain values: the json of its file.

What each family reads and writes::

    family              reads          writes         decoder
    SAE                 s              s              Free
    transcoder          a              b              Free (+ skip)
    crosscoder          s1 … sn        s1 … sn        Free (the first `shared` latents with one decoder for all)
    cross-layer (CLT)   one block a layer, reading it and writing to its own and all later ones: Free, PerSource,
                        PerTarget or LowRank
    MOLT                a              b              Transforms
    tokenized SAE       s              s              Free, and `tokens`: one more vector for each token
    Jacobian pair       two blocks: a → a and b → b
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from digsite._core.errors import BadInput, LoadError, explain
from digsite.dictionaries.activations import Activation


@dataclass(frozen=True, kw_only=True)
class Column:
    """Where a dictionary reads or writes.

    Attributes:
        width: Numbers in a row.
        scale: Activations are divided by this before anything else, and what is written is multiplied by it.
        each_row: What is done to each row before that, and undone in what is written with the row's own numbers:
            "layer norm" brings it to mean 0 and standard deviation 1, "length" to the length √width. Dictionaries of
            other libraries need it; with it, what a latent writes has another length in every row.
    """

    width: int
    scale: float = 1.0
    each_row: Literal["as it is", "layer norm", "length"] = "as it is"


@dataclass(frozen=True, kw_only=True)
class Free:
    """A decoder row for every latent and every column that is written.

    Attributes:
        shared: The first so many latents have one row for all columns.
    """

    shared: int = 0
    kind: Literal["free"] = "free"


@dataclass(frozen=True, kw_only=True)
class PerSource:
    """One decoder row a latent, the same for all columns that its block writes."""

    kind: Literal["per source"] = "per source"


@dataclass(frozen=True, kw_only=True)
class PerTarget:
    """One decoder matrix for each column that is written, the same from all blocks that write it."""

    kind: Literal["per target"] = "per target"


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """A decoder row a latent for the first column; each further column adds a product of two thin matrices to it.

    Attributes:
        rank: Of the product.
    """

    rank: int
    kind: Literal["low rank"] = "low rank"


@dataclass(frozen=True, kw_only=True)
class Transforms:
    """Each latent is a linear map of its own, of low rank: it adds its value × U V x (MOLT).

    Attributes:
        ranks: How many latents of which rank, in order: ((512, 4), (256, 8)) is 512 latents of rank 4, then 256 of 8.
    """

    ranks: tuple[tuple[int, int], ...]
    kind: Literal["transforms"] = "transforms"


Decoder = Annotated[Free | PerSource | PerTarget | LowRank | Transforms, Field(discriminator="kind")]
"""Any of them; `kind` says which in a file."""


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One encoder and what it writes.

    Attributes:
        reads: Columns; several are encoded together (their pre-activations add).
        writes: Columns.
        latents: How many.
        activation: What turns pre-activations into latents.
        decoder: How latents become what is written.
        centred: The encoder reads x - b_dec of the same column (where the block also writes it).
        skip: A dense linear map from what is read to what is written is added.
        prefixes: Matryoshka: the first so many latents are a dictionary of their own; ascending, the last is all.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    latents: int
    activation: Activation
    decoder: Decoder = Free()
    centred: bool = False
    skip: bool = False
    prefixes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DictionaryConfig:
    """All that says what a dictionary computes, but for its numbers.

    Attributes:
        family: "sae", "transcoder", "crosscoder", "clt", "molt" … ; a name for people, nothing depends on it.
        columns: Every column that is read or written.
        blocks: In order.
        tokens: Rows of the token table that is added to every written column; 0 where there is none.
        origin: Where it comes from: model, weights, store, recipe, how it was made; for record.
    """

    family: str
    columns: Mapping[str, Column]
    blocks: tuple[BlockConfig, ...]
    tokens: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        problems = [problem for block in self.blocks for problem in _problems(block, self.columns)]
        if len({block.latents for block in self.blocks if isinstance(block.decoder, PerTarget)}) > 1:
            problems.append("blocks that share matrices per target have as many latents each")
        if not self.blocks or problems:
            raise BadInput(explain("This is no dictionary", found="; ".join(problems) or "no blocks"))

    @property
    def reads(self) -> tuple[str, ...]:
        """Every column that a block reads, once, in order."""
        return tuple(dict.fromkeys(name for block in self.blocks for name in block.reads))

    @property
    def writes(self) -> tuple[str, ...]:
        """Every column that a block writes, once, in order."""
        return tuple(dict.fromkeys(name for block in self.blocks for name in block.writes))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return _ADAPTER.dump_python(self, mode="json")

    @staticmethod
    def from_dict(plain: Mapping[str, Any], where: str = "the file") -> "DictionaryConfig":
        """Read what `to_dict` gave.

        Raises:
            LoadError: A field is missing, unknown, or of another kind.
        """
        try:
            return _ADAPTER.validate_python(plain)
        except ValidationError as error:
            first = error.errors()[0]
            found = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise LoadError(explain(f"{where} does not describe a dictionary", found=found)) from error


def _problems(block: BlockConfig, columns: Mapping[str, Column]) -> list[str]:
    found = [f"{name} is not among the columns" for name in (*block.reads, *block.writes) if name not in columns]
    if not block.reads or not block.writes:
        found.append("a block reads and writes at least one column")
    k = getattr(block.activation, "k", 1)
    if not 1 <= k <= block.latents:
        found.append(f"k={k} of {block.latents} latents")
    if block.activation.kind == "groupmax" and block.latents % k:
        found.append(f"{block.latents} latents do not divide into {k} groups")
    if isinstance(block.decoder, Free) and not 0 <= block.decoder.shared <= block.latents:
        found.append(f"{block.decoder.shared} shared of {block.latents} latents")
    if _alike(block.decoder) and len({columns[name].width for name in block.writes if name in columns}) > 1:
        found.append("latents write one row to columns of several widths")
    if isinstance(block.decoder, Transforms) and sum(count for count, _ in block.decoder.ranks) != block.latents:
        found.append(f"the ranks {block.decoder.ranks} are not of {block.latents} latents")
    if (block.skip or isinstance(block.decoder, Transforms)) and len(block.reads) != 1:
        found.append("a skip or linear maps as latents need one column to read")
    rising = all(a < b for a, b in zip(block.prefixes, block.prefixes[1:], strict=False))
    if block.prefixes and (not rising or block.prefixes[0] < 1 or block.prefixes[-1] != block.latents):
        found.append(f"prefixes {block.prefixes} do not ascend to {block.latents}")
    return found


def _alike(decoder: Decoder) -> bool:
    """Whether a latent has one row for several columns."""
    return isinstance(decoder, PerSource | LowRank) or (isinstance(decoder, Free) and decoder.shared > 0)


_ADAPTER = TypeAdapter(DictionaryConfig)
