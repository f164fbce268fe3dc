"""Canonical views of a model's weights: W_Q [head, d_model, d_head] … W_U [d_model, vocab].

Nothing is copied and nothing is changed: `model.weights.W_Q[5]` is a view of the parameter of layer 5, whatever the
architecture stores. Norms are folded by a pure function, `folded`, which returns a new tensor.
"""

from collections.abc import Callable, Iterator
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import NoSuchSite, explain
from digsite.models.anatomy import Anatomy
from digsite.models.block import Block
from digsite.models.linears import head_bias, head_weight, linear_bias, linear_weight
from digsite.models.norms import Norm


class PerLayer:
    """One weight of every layer, made when it is asked for."""

    def __init__(self, name: str, n_layers: int, make: Callable[[int], Tensor | None]):
        self._name, self._n, self._make = name, n_layers, make

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, layer: int) -> Tensor: ...
    @overload
    def __getitem__(self, layer: slice) -> list[Tensor]: ...
    def __getitem__(self, layer: int | slice) -> Tensor | list[Tensor]:
        """The weight of a layer.

        Raises:
            NoSuchSite: The layer does not exist or has no such weight.
        """
        if isinstance(layer, slice):
            return [self[i] for i in range(*layer.indices(self._n))]
        if not -self._n <= layer < self._n:
            raise NoSuchSite(explain(f"There is no layer {layer}", possible=f"0 to {self._n - 1}"))
        found = self._make(layer % self._n)
        if found is None:
            raise NoSuchSite(explain(f"Layer {layer} has no {self._name}"))
        return found

    def __iter__(self) -> Iterator[Tensor]:
        return (self[layer] for layer in range(self._n))

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and 0 <= layer < self._n and self._make(layer) is not None

    def stack(self) -> Tensor:
        """All layers in one new tensor, with a first axis `layer`."""
        return torch.stack(list(self))


class Weights:
    """Views of one model's weights.

    Per layer: `W_Q [head, d_model, d_head]`, `W_K` and `W_V` (key/value heads), `W_O [head, d_head, d_model]`,
    `b_Q b_K b_V [head, d_head]`, `b_O [d_model]`, `W_gate` and `W_in [d_model, d_mlp]`, `W_out [d_mlp, d_model]`,
    `b_in`, `b_out`; and `W_E [vocab, d_model]`, `W_U [d_model, vocab]`, `b_U`.
    """

    def __init__(self, anatomy: Anatomy):
        self._anatomy = anatomy

    def _layers(self, name: str, make: Callable[[Block], Tensor | None]) -> PerLayer:
        blocks = self._anatomy.blocks
        return PerLayer(name, len(blocks), lambda layer: make(blocks[layer]))

    def _heads(self, name: str, part: str) -> PerLayer:
        layout = self._anatomy.arch.layout

        def make(block: Block) -> Tensor | None:
            needed = {"qkv"} if "qkv" in block.parts and part != "o" else {part}
            there = block.heads is not None and needed <= block.parts.keys()
            there = there and (part == "o" or bool(self._anatomy.stages.get((block.index, f"attn.{part}"))))
            return head_weight(block, layout, part) if there else None

        return self._layers(name, make)

    def _head_biases(self, name: str, part: str) -> PerLayer:
        layout = self._anatomy.arch.layout

        def make(block: Block) -> Tensor | None:
            there = bool(self._anatomy.stages.get((block.index, f"attn.{part}")))
            return head_bias(block, layout, part) if there else None

        return self._layers(name, make)

    def _mlp(self, name: str, part: str, half: int | None = None) -> PerLayer:
        def make(block: Block) -> Tensor | None:
            if part in block.parts:
                return linear_weight(block.parts[part]).T
            if half is not None and "gate_up" in block.parts:
                return linear_weight(block.parts["gate_up"]).T.chunk(2, -1)[half]
            return None

        return self._layers(name, make)

    def _biases(self, name: str, part: str) -> PerLayer:
        return self._layers(name, lambda block: linear_bias(block.parts[part]) if part in block.parts else None)

    @property
    def W_Q(self) -> PerLayer:
        """Query weights [head, d_model, d_head] of each layer."""
        return self._heads("W_Q", "q")

    @property
    def W_K(self) -> PerLayer:
        """Key weights [kv head, d_model, d_head] of each layer."""
        return self._heads("W_K", "k")

    @property
    def W_V(self) -> PerLayer:
        """Value weights [kv head, d_model, d_head] of each layer."""
        return self._heads("W_V", "v")

    @property
    def W_O(self) -> PerLayer:
        """Output weights [head, d_head, d_model] of each layer, before any post-norm or residual multiplier."""
        return self._heads("W_O", "o")

    @property
    def b_Q(self) -> PerLayer:
        """Query biases [head, d_head]."""
        return self._head_biases("b_Q", "q")

    @property
    def b_K(self) -> PerLayer:
        """Key biases [kv head, d_head]."""
        return self._head_biases("b_K", "k")

    @property
    def b_V(self) -> PerLayer:
        """Value biases [kv head, d_head]."""
        return self._head_biases("b_V", "v")

    @property
    def b_O(self) -> PerLayer:
        """Output biases [d_model]."""
        return self._biases("b_O", "o")

    @property
    def W_in(self) -> PerLayer:
        """MLP input weights [d_model, d_mlp] (`up` in a gated MLP)."""
        return self._mlp("W_in", "up", 1)

    @property
    def W_gate(self) -> PerLayer:
        """MLP gate weights [d_model, d_mlp]."""
        return self._mlp("W_gate", "gate", 0)

    @property
    def W_out(self) -> PerLayer:
        """MLP output weights [d_mlp, d_model]."""
        return self._mlp("W_out", "down")

    @property
    def b_in(self) -> PerLayer:
        """MLP input biases [d_mlp]."""
        return self._biases("b_in", "up")

    @property
    def b_out(self) -> PerLayer:
        """MLP output biases [d_model]."""
        return self._biases("b_out", "down")

    @property
    def W_E(self) -> Float[Tensor, "vocab d_model"]:
        """Token embeddings as stored; a model may scale them on the way into the stream."""
        return self._anatomy.embed.weight.detach()  # pyright: ignore[reportCallIssue,reportAttributeAccessIssue]

    @property
    def W_U(self) -> Float[Tensor, "d_model vocab"]:
        """The unembedding; logit multipliers and soft-caps come after it."""
        return linear_weight(self._anatomy.unembed).T

    @property
    def b_U(self) -> Float[Tensor, " vocab"] | None:
        """The unembedding's bias, where it has one."""
        return linear_bias(self._anatomy.unembed)

    def norm(self, layer: int | None, which: str = "attn") -> Norm | None:
        """The norm in front of a layer's attention ("attn") or MLP ("mlp"); the final norm for layer None."""
        if layer is None:
            return self._anatomy.final_norm
        block = self._anatomy.blocks[layer]
        return block.norm1 if which == "attn" else block.norm2


def folded(weight: Float[Tensor, "*lead d_model d_out"], norm: Norm) -> Float[Tensor, "*lead d_model d_out"]:
    """A weight that reads the normalised stream without the norm's gain and mean: the norm folded into it.

    For x_hat = (x - mean?) / scale, x_hat @ folded(W) equals norm(x) @ W up to the norm's bias. Always a new tensor;
    the model keeps its own.

    Args:
        weight: Reads the output of the norm, such as W_Q of a layer.
        norm: The norm in front of it.
    """
    gain = norm.gain
    made = weight * (gain.unsqueeze(-1) if isinstance(gain, Tensor) else gain)
    return made - made.mean(-2, keepdim=True) if norm.centred else made
