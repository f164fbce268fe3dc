"""Direct effects: what a part writes, carried to the logits as if nothing after it read it.

The final norm is linear once its scale is held at the value it had. So is a norm behind attention (Gemma 2, OLMo 2).
Then the logits are a sum over what was written into the stream, and each share can be looked at by itself:

1. `heads_written`: what each head adds to the stream, any norm behind attention included with its scale fixed.
2. `through_final_norm`: what of it the unembedding reads, the final norm's scale fixed.
3. `unembedding`: what turns that into logits, with the constant that some architectures multiply them by.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (logit attribution).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.errors import Unsupported, explain
from digsite.models.norms import Norm, find_norm
from digsite.models.readout import logit_scale
from digsite.models.weights import folded


def require_a_sum(model: Any) -> None:
    """Refuses a model whose last stream is not a sum of what its parts write.

    Raises:
        Unsupported: Norms sit inside the stream.
    """
    anatomy = model.anatomy
    if anatomy.arch.post_norm or (anatomy.final_norm is None and anatomy.final_norm_module is not None):
        raise Unsupported(
            explain("The last stream of this model is not a sum of components", found="norms sit inside the stream")
        )


def heads_written(model: Any, layer: int, z: Float[Tensor, "*axes head d_head"]) -> Float[Tensor, "*axes head d_model"]:
    """What each head adds to the stream, by what it made of the values.

    Args:
        model: A `Model`.
        layer: The layer.
        z: Of all its heads, as the site `attn.z` gives it.

    Units: those of the stream.
    """
    block = model.anatomy.blocks[layer]
    heads = torch.einsum("...nh,nhd->...nd", z.float(), model.weights.W_O[layer].float())
    post = post_norm(model, block)
    if post is not None:
        whole = heads.sum(-2)
        bias = model.weights.b_O
        whole = whole + bias[layer].float() if layer in bias else whole
        heads = post.linear(heads, post.scale(whole).unsqueeze(-2)).float()
    return heads * model.anatomy.multiplier


def neurons_written(
    model: Any, layer: int, act: Float[Tensor, "*axes d_mlp"], neurons: Sequence[int]
) -> Float[Tensor, "*axes part d_model"]:
    """What some neurons add to the stream, by how active they are.

    Args:
        model: A `Model`.
        layer: The layer.
        act: Of all its neurons, as the site `mlp.act` gives it.
        neurons: Which.

    Units: those of the stream.
    """
    block, weight = model.anatomy.blocks[layer], model.weights.W_out[layer].float()
    act = act.float()
    written = act[..., list(neurons), None] * weight[list(neurons)]
    post = post_norm(model, block, "mlp")
    if post is not None:
        bias = model.weights.b_out
        whole = act @ weight + (bias[layer].float() if layer in bias else 0.0)
        written = post.linear(written, post.scale(whole).unsqueeze(-2)).float()
    return written * model.anatomy.multiplier


def post_norm(model: Any, block: Any, branch: str = "attn") -> Norm | None:
    """The norm between the output projection of a block's attention ("attn") or MLP ("mlp") and the stream, or None."""
    out = block.parts.get(f"{branch}_out")
    inner = [block.parts.get(name) for name in {"attn": ("o",), "mlp": ("mlp", "down")}[branch]]
    return None if out is None or any(out is one for one in inner) else find_norm(out, model.d_model)


def through_final_norm(
    model: Any, written: Float[Tensor, "*axes d_model"], last: Float[Tensor, "*#axes d_model"]
) -> Float[Tensor, "*axes d_model"]:
    """What of a share of the stream the unembedding reads.

    Args:
        model: A `Model`.
        written: The share.
        last: The whole last stream at the same places, whose scale is held.
    """
    norm = model.anatomy.final_norm
    return written if norm is None else norm.linear(written, norm.scale(last.float()))


def unembedding(model: Any) -> Float[Tensor, "d_model vocab"]:
    """What turns the normalised stream into logits, before a soft-cap: W_U times the architecture's constant."""
    return model.weights.W_U.float() * logit_scale(model.hf)


def head_values(model: Any, layer: int) -> Float[Tensor, "head d_model d_head"]:
    """W_V of each query head; heads that share a value head have the same."""
    values = model.weights.W_V[layer].float()
    return values.repeat_interleave(model.weights.W_O[layer].shape[0] // values.shape[0], 0)


def head_outputs(model: Any, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """W_O of each head up to a positive factor: with the gain of a norm behind attention, without that norm's scale."""
    outputs = model.weights.W_O[layer].float()
    post = post_norm(model, model.anatomy.blocks[layer])
    return (outputs if post is None else post.linear(outputs, torch.ones(1).to(outputs))) * model.anatomy.multiplier


def neuron_outputs(model: Any, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """W_out up to a positive factor: with the gain of a norm behind the MLP, without that norm's scale."""
    outputs = model.weights.W_out[layer].float()
    post = post_norm(model, model.anatomy.blocks[layer], "mlp")
    return (outputs if post is None else post.linear(outputs, torch.ones(1).to(outputs))) * model.anatomy.multiplier


def read_by(
    model: Any, layer: int, branch: str, stream: Float[Tensor, "*axes d_model"]
) -> Float[Tensor, "*axes d_model"]:
    """The stream as the projections of a layer's attention ("attn") or MLP ("mlp") consume it."""
    norm = model.weights.norm(layer, branch)
    return stream if norm is None else norm(stream).float()


def folded_unembedding(model: Any, ids: Int[Tensor, " place"] | None = None) -> Float[Tensor, "d_model _"]:
    """The unembedding with the final norm's gain in it, less its mean over tokens, which no softmax sees.

    Args:
        model: A `Model`.
        ids: The tokens whose columns are wanted, the mean being theirs; all if None.
    """
    weight = unembedding(model)
    weight = weight if ids is None else weight[:, ids.to(weight.device)]
    norm = model.anatomy.final_norm
    weight = weight if norm is None else folded(weight, norm)
    return weight - weight.mean(1, keepdim=True)
