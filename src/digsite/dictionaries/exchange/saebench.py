"""An SAE as SAEBench takes it: dense latents, matrices [d_in, latent] and [latent, d_in], and a configuration.

Only here are latents dense, because SAEBench indexes them so.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from digsite._core.errors import Unsupported, explain
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.exchange.folding import folded
from digsite.dictionaries.exchange.names import layer_of, to_hook


@dataclass(kw_only=True)
class SaeBenchConfig:
    """What SAEBench asks an SAE about itself; it writes some of the fields."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    dtype: str
    device: str
    architecture: str
    apply_b_dec_to_input: bool
    context_size: int = 128
    hook_head_index: int | None = None
    normalize_activations: str = "none"
    prepend_bos: bool = True
    training_tokens: int = -1
    dataset_path: str = ""
    seqpos_slice: tuple[int | None, ...] = (None,)
    model_from_pretrained_kwargs: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As SAEBench saves it."""
        return asdict(self)


class SaeBenchView(nn.Module):
    """A dictionary behind SAEBench's names; its numbers are copies, folded.

    Attributes:
        W_enc: [d_in, latent].
        W_dec: [latent, d_in].
        b_enc: [latent].
        b_dec: [d_in].
        cfg: What SAEBench asks for.
    """

    def __init__(self, dictionary: Dictionary, cfg: SaeBenchConfig):
        super().__init__()
        self.dictionary, self.cfg = dictionary, cfg
        self.column = dictionary.reads[0]

    @property
    def W_enc(self) -> Float[Tensor, "d_in latent"]:
        """The encoder."""
        return self.dictionary.blocks[0].W_enc[0].T

    @property
    def W_dec(self) -> Float[Tensor, "latent d_in"]:
        """The decoder."""
        return self.dictionary.blocks[0].W_dec(self.column)

    @property
    def b_enc(self) -> Float[Tensor, " latent"]:
        """The encoder's bias."""
        return self.dictionary.blocks[0].b_enc

    @property
    def b_mag(self) -> Float[Tensor, " latent"]:
        """The bias of the magnitude, which only a gated SAE has."""
        return self.dictionary.blocks[0].own("b_mag")

    @property
    def b_dec(self) -> Float[Tensor, " d_in"]:
        """The decoder's bias."""
        return self.dictionary.bias(self.column)

    hook_z_reshaping_mode = False
    """Heads come flat, as rows of attn.z are; SAEBench asks before it reshapes."""

    def turn_off_forward_pass_hook_z_reshaping(self) -> None:
        """Nothing to turn off."""

    @property
    def device(self) -> torch.device:
        """Where its numbers are."""
        return self.b_enc.device

    @property
    def dtype(self) -> torch.dtype:
        """What its numbers are held in."""
        return self.b_enc.dtype

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        """Dense latents."""
        (latents,) = self.dictionary.encode({self.column: x.reshape(-1, x.shape[-1]).to(self.dtype)})
        return latents.dense().reshape(*x.shape[:-1], -1)

    def decode(self, latents: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch d_in"]:
        """What dense latents write."""
        return latents.to(self.dtype) @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """What the dictionary makes of activations."""
        return self.decode(self.encode(x))


def saebench_view(dictionary: Dictionary, *, model_name: str, hook_layer: int | None = None) -> SaeBenchView:
    """An SAE as SAEBench takes it.

    Args:
        dictionary: An SAE: one block that writes the one column it reads.
        model_name: As TransformerLens names the model: `pythia-70m-deduped`, `gemma-2-2b`.
        hook_layer: The layer of its site, unless the site says it.

    Raises:
        Unsupported: It is no SAE, or cannot be decoded without what it has read.
    """
    block = dictionary.config.blocks[0]
    column = dictionary.config.columns[block.reads[0]]
    whole = len(dictionary.blocks) == 1 and block.reads == block.writes and len(block.reads) == 1
    if not whole or dictionary.tokens is not None or block.skip or block.decoder.kind == "transforms":
        raise Unsupported(
            explain("SAEBench takes SAEs", found=repr(dictionary), possible="one block, one column, no skip")
        )
    if column.each_row != "as it is":
        raise Unsupported(explain("SAEBench decodes latents without the rows they come from", found=column.each_row))
    name = block.reads[0]
    view = SaeBenchView(
        folded(dictionary),
        SaeBenchConfig(
            model_name=model_name,
            d_in=column.width,
            d_sae=block.latents,
            hook_layer=layer_of(name) if hook_layer is None else hook_layer,
            hook_name=to_hook(name),
            dtype=str(dictionary.blocks[0].b_enc.dtype).removeprefix("torch."),
            device=str(dictionary.blocks[0].b_enc.device),
            architecture=block.activation.kind,
            apply_b_dec_to_input=block.centred,
        ),
    )
    return view.eval()
