"""A dictionary from the matrices of another library, brought to digsite's orientation by their reader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import LoadError, explain
from digsite.dictionaries.activations import Activation
from digsite.dictionaries.config import BlockConfig, Column, DictionaryConfig
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.files import filled


@dataclass(frozen=True, kw_only=True)
class Part:
    """One block: what it reads, writes, and its numbers.

    Attributes:
        reads: One column.
        writes: Columns.
        W_enc: [latent, d_in].
        b_enc: [latent].
        W_dec: A matrix [latent, d_out] for each column that is written.
        activation: What selects the latents.
        own: What the activation learnt: `threshold`, `r_mag`, `b_mag`.
        W_skip: A matrix [d_out, d_in] for each column that is written, or none.
        centred: The encoder reads x - b_dec.
        prefixes: Of a Matryoshka dictionary.
    """

    reads: str
    writes: tuple[str, ...]
    W_enc: Float[Tensor, "latent d_in"]
    b_enc: Float[Tensor, " latent"]
    W_dec: Sequence[Float[Tensor, "latent d_out"]]
    activation: Activation
    own: Mapping[str, Tensor] = field(default_factory=dict)
    W_skip: Sequence[Float[Tensor, "d_out d_in"]] = ()
    centred: bool = False
    prefixes: tuple[int, ...] = ()

    def config(self) -> BlockConfig:
        """The block as plain values."""
        return BlockConfig(
            reads=(self.reads,),
            writes=self.writes,
            latents=len(self.b_enc),
            activation=self.activation,
            centred=self.centred,
            skip=bool(self.W_skip),
            prefixes=self.prefixes,
        )

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Its numbers under digsite's names."""
        return {
            f"{prefix}.W_enc.0": self.W_enc,
            f"{prefix}.b_enc": self.b_enc,
            **{f"{prefix}.decoder.W.{i}": W for i, W in enumerate(self.W_dec)},
            **{f"{prefix}.W_skip.{i}": W for i, W in enumerate(self.W_skip)},
            **{f"{prefix}.{name}": x for name, x in self.own.items()},
        }


def assembled(
    family: str,
    parts: Sequence[Part],
    b_dec: Mapping[str, Float[Tensor, " d"]],
    where: str,
    origin: Mapping[str, Any],
    *,
    scale: float = 1.0,
    each_row: Literal["as it is", "layer norm", "length"] = "as it is",
) -> Dictionary:
    """A dictionary of these parts.

    Args:
        family: A name for people.
        parts: Its blocks, in order.
        b_dec: The bias of every column that is written.
        where: The file, for errors.
        origin: For record.
        scale: Of all columns (`Column.scale`).
        each_row: What is done to each row of all columns that are read (`Column.each_row`).

    Raises:
        LoadError: A tensor does not fit the others, or is not finite.
    """
    flat = [name for part in parts for name, x in part.tensors("").items() if "W_" in name and x.ndim != 2]
    if flat:
        raise LoadError(explain(f"{where} holds matrices that are none", found=", ".join(flat)))
    written = {name: Column(width=len(b), scale=scale) for name, b in b_dec.items()}
    read = {part.reads: Column(width=part.W_enc.shape[1], scale=scale, each_row=each_row) for part in parts}
    config = DictionaryConfig(
        family=family, columns=written | read, blocks=tuple(part.config() for part in parts), origin=origin
    )
    tensors = {f"b_dec.{i}": b_dec[name] for i, name in enumerate(config.writes)}
    for i, part in enumerate(parts):
        tensors |= part.tensors(f"blocks.{i}")
    return filled(Dictionary(config), tensors, where)
