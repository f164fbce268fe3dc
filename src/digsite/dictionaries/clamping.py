"""A latent as a direction, and a latent held at a value: steering with a dictionary.

1. What the model has is encoded; of all latents only the activation a of the clamped one is used.
2. What the latent writes is changed by the difference and nothing else is: x + (value - a) d. So what the dictionary
   does not explain, its error, stays in x, and a latent that is held at what it already is changes nothing.
3. One unit of "max" is the largest activation of the latent that was seen.

An activation may be negative (a latent of AbsTopK, a bias); it is taken away as it is, never rectified first.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import BadInput, Unsupported, explain
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.splice import rows_in, rows_of, site_of
from digsite.directions import Direction, Scale
from digsite.models import Edit, Model, apply, made_by
from digsite.models.measure import TokenSource
from digsite.models.tokens import Positions
from digsite.sites import Site
from digsite.store import Rows

BATCH = 32


def latent_direction(
    dictionary: Dictionary, latent: int, model: Model, text: TokenSource, *, block: int = 0, column: str | None = None
) -> Direction:
    """A latent as a direction: it writes along its decoder, and is read by its encoder before the activation function.

    Args:
        dictionary: A dictionary of this model.
        latent: The number of the latent in its block.
        model: The model.
        text: What its activations are measured on, the BOS left out.
        block: The block.
        column: The column that it writes; None for the first.

    Returns:
        One raw unit is an activation of 1. The scale is that of what the latent writes, so that `add(2, "max")` adds
        what it writes at twice its largest activation. Where the column is written but not read (a transcoder) there
        is no encoder at that site, and a reading is along the decoder.

    Raises:
        BadInput: No such latent or column, or it never fires in the text.
        Unsupported: Rows are normalised one by one, or the latent writes a linear map: neither has one vector.
    """
    _check(dictionary, latent, block)
    config = dictionary.blocks[block].config
    column = column or config.writes[0]
    if column not in config.writes:
        raise BadInput(explain(f"The latent does not write {column}", possible=config.writes, near=column))
    vector = _written(dictionary, latent, block, column)
    reader, bias = _reading(dictionary, latent, block, column)
    each, lengths = [], []
    for tokens in text.batches(BATCH):
        run = model.run(tokens, read=[*map(site_of, config.reads), site_of(column)], logits=None, to="cpu")
        where = rows_in(tokens)
        each.append(_activation(dictionary, rows_of(run, config.reads, where), latent, block))
        lengths.append(run[site_of(column)].flatten(2)[where].norm(dim=-1))
    a = torch.cat(each).double() * float(vector.norm())
    if not bool(a.any()):
        do = "measure on other text, or choose a latent that fires"
        raise BadInput(explain(f"Latent {latent} never fires in {len(a)} rows of the text", do=do))
    scale = Scale(
        norm=float(torch.cat(lengths).double().mean()),
        mean=float(a.mean()),
        sd=float(a.std(correction=0)),
        smallest=float(a.min()),
        largest=float(a.max()),
        rows=len(a),
    )
    call = f"digsite.dictionaries.latent_direction(dictionary, {latent}, model, text, block={block}, column={column!r})"
    return Direction(
        site=Site.parse(site_of(column)),
        vector=vector,
        reader=reader,
        bias=bias,
        scale=scale,
        name=_name(latent),
        how=f"decoder, scale of what it writes in text {text.fingerprint}",
        provenance=made_by(call, model, text.fingerprint),
    )


def clamp(
    dictionary: Dictionary,
    latent: int,
    value: float,
    unit: str = "raw",
    *,
    seen: Direction | None = None,
    block: int = 0,
    at: Positions = None,
) -> list[Edit]:
    """Hold a latent at a value and leave everything else, the error of the dictionary included.

    Args:
        dictionary: A dictionary of the model that will be run.
        latent: The number of the latent in its block.
        value: Where it is held; 0 takes it away.
        unit: "raw" for an activation, "max" for the latent's own largest one.
        seen: For "max": what `latent_direction` gave for the latent; its scale knows the largest activation.
        block: The block.
        at: Positions; None for all. Dictionaries are not trained on the BOS: `slice(1, None)` leaves it alone.

    Returns:
        Edits: one where the block reads the column that it writes; else one that looks at what it reads, and one for
        each column that it writes.

    Raises:
        BadInput: No such latent, or a "max" without the largest activation.
        Unsupported: As `latent_direction`; or a block that reads several columns.

    Source: Templeton et al. 2024, "Scaling Monosemanticity", section "Feature steering" (error term kept).
    """
    _check(dictionary, latent, block)
    if unit not in ("raw", "max"):
        raise BadInput(explain(f"{unit!r} is no unit of a clamped latent", possible=("raw", "max"), near=unit))
    if unit == "max" and (seen is None or seen.scale is None or seen.name != _name(latent)):
        do = "pass seen=latent_direction(dictionary, latent, model, text)"
        raise BadInput(explain(f"The largest activation of latent {latent} is not known", do=do))
    config = dictionary.blocks[block].config
    source, *others = config.reads
    if others:
        raise Unsupported(explain(f"Latent {latent} reads {', '.join(config.reads)} at once", do="add its direction"))
    goal = value
    if unit == "max" and seen is not None and seen.scale is not None:
        goal = value * seen.scale.largest / float(seen.vector.norm())
    held = _Held(dictionary, latent, block, goal)
    if source in config.writes:
        if len(config.writes) > 1:
            raise Unsupported(explain(f"Latent {latent} writes several columns, and reads one of them"))
        return [apply(site_of(source), held.both, at=at)]
    look = apply(site_of(source), held.look, at=at)
    return [look, *(apply(site_of(name), held.writer(name), at=at) for name in config.writes)]


class _Held:
    """One clamped latent in a pass."""

    def __init__(self, dictionary: Dictionary, latent: int, block: int, goal: float):
        self.dictionary, self.latent, self.block, self.goal = dictionary, latent, block, goal
        self.missing: Tensor | None = None

    def look(self, x: Tensor) -> Tensor:
        """1. How far the latent is from where it is held."""
        source = self.dictionary.blocks[self.block].config.reads[0]
        flat = x.reshape(-1, self.dictionary.config.columns[source].width)
        found = _activation(self.dictionary, Rows({source: flat}), self.latent, self.block)
        self.missing = self.goal - found
        return x

    def both(self, x: Tensor) -> Tensor:
        """1., 2. At a site that is read and written."""
        return self.writer(self.dictionary.blocks[self.block].config.reads[0])(self.look(x))

    def writer(self, column: str) -> Callable[[Tensor], Tensor]:
        """2. What is added to a column."""
        vector = _written(self.dictionary, self.latent, self.block, column)

        def write(x: Tensor) -> Tensor:
            assert self.missing is not None, "what is read lies before what is written"
            change = self.missing[:, None] * vector.to(self.missing)
            return x + change.reshape(x.shape).to(x)

        return write


def _name(latent: int) -> str:
    return f"latent {latent}"


def _activation(dictionary: Dictionary, rows: Rows, latent: int, block: int) -> Float[Tensor, " row"]:
    """1. One latent's activation in every row, chosen among all latents as the activation function does."""
    part, like = dictionary.blocks[block], dictionary.b_dec[0]
    with torch.no_grad():
        found = dictionary.selected(part, dictionary.inputs(part, rows.to(like.device, like.dtype)))
    values, indices = found.flat
    chosen = indices == latent
    return torch.zeros(len(found)).to(values).index_add_(0, found.rows[chosen], values[chosen])


def _written(dictionary: Dictionary, latent: int, block: int, column: str) -> Float[Tensor, " width"]:
    """What the latent writes at an activation of 1, in the units of the model."""
    if dictionary.config.columns[column].each_row != "as it is":
        do = "fold or choose a dictionary that takes rows as they are"
        raise Unsupported(explain(f"What latent {latent} writes to {column} has another length in every row", do=do))
    if dictionary.blocks[block].config.decoder.kind == "transforms":
        raise Unsupported(explain(f"Latent {latent} writes a linear map of what it reads, not one vector"))
    return dictionary.directions(column, block)[latent].detach().float().cpu()


def _reading(dictionary: Dictionary, latent: int, block: int, column: str) -> tuple[Tensor | None, float]:
    """What reads the pre-activation in the units of the model, where the column that is written is read too."""
    part = dictionary.blocks[block]
    if part.config.reads != (column,):
        return None, 0.0
    encoder = part.W_enc[0][latent].detach().float().cpu()
    bias = float(part.b_enc[latent].detach())
    if part.config.centred:
        bias -= float(encoder @ dictionary.bias(column).detach().float().cpu())
    return encoder / dictionary.config.columns[column].scale, bias


def _check(dictionary: Dictionary, latent: int, block: int) -> None:
    if not 0 <= block < len(dictionary.blocks):
        raise BadInput(explain(f"There is no block {block}", possible=f"0 to {len(dictionary.blocks) - 1}"))
    count = dictionary.blocks[block].config.latents
    if not 0 <= latent < count:
        raise BadInput(explain(f"There is no latent {latent} in block {block}", possible=f"0 to {count - 1}"))
