"""The sparse arithmetic of dictionaries: what costs k numbers a row where a dense product would cost one a latent.

1. Encode: pre-activations of some rows at a time, by one dense product; what is chosen of them is kept, and no more.
   All pre-activations of a batch are never held at once.
2. Decode: the rows of the decoder that fire are added up.
3. Gradients: three sparse products (`products`). They are equal to those of a dense pass, for the same choice, and
   take 4 × 2kd operations a row beside the 2dm of the encoder, where a dense pass takes 10dm.

Source: Gao et al. 2024, arXiv 2406.04093, appendix D, on sparse products; which operations do them here is our own.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from digsite._core.errors import BadInput, explain
from digsite.dictionaries import products
from digsite.store import Latents

Columns = Tensor | Sequence[Tensor]
"""One matrix, or one for each column that is read."""
Choose = Callable[[Tensor], Latents]
"""From pre-activations [row, latent] of some rows to the places chosen in them; the values it gives are not used."""

_GROUP = 4
"""Of how many entries the largest stands for all while the k largest are looked for; 4 and 8 are equally fast."""
_NARROW = 32
"""Rows of fewer than 32 k entries are searched as they are."""


# -- choosing ------------------------------------------------------------------------------------------------------
def top_k(pre: Float[Tensor, "row latent"], k: int) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest entries of every row, in no particular order; faster than `torch.topk` where rows are wide.

    Groups of four entries are stood for by their largest. The k groups whose largest are largest hold the k largest
    entries, so that only those groups are searched; the groups are found in the same way.

    Args:
        pre: Any numbers; NaN counts as the largest, so that it is not lost.
        k: How many.

    Raises:
        BadInput: A row has fewer than k entries.
    """
    width = pre.shape[1]
    if k > width:
        raise BadInput(explain(f"The {k} largest latents of a row were asked for", found=f"{width} latents"))
    if width < _NARROW * k or width % _GROUP:
        values, indices = pre.topk(k, dim=1, sorted=False)
        return values, indices
    count = width // _GROUP
    grouped = pre.unflatten(1, (_GROUP, count))  # a group lies at equal distances: maxima of whole vectors are fast
    _, groups = top_k(grouped.amax(1), k)
    candidates = grouped.gather(2, groups[:, None].expand(-1, _GROUP, -1)).flatten(1)
    values, best = candidates.topk(k, dim=1, sorted=False)
    return values, groups.gather(1, best % k) + best // k * count


def above(pre: Float[Tensor, "row latent"], floor: float | Float[Tensor, "*latent"]) -> Latents:
    """The entries above a floor, one number for all or one a latent.

    Args:
        pre: Any numbers; NaN is kept, so that it is not lost.
        floor: What an entry must be above.
    """
    return _entries(pre, (pre <= floor).logical_not_())


def top_entries(pre: Float[Tensor, "row latent"], count: int) -> Latents:
    """The `count` largest entries of all rows together, or all where there are fewer; on the autograd path.

    Args:
        pre: Any numbers; NaN counts as the largest.
        count: How many.
    """
    largest = _Largest(count)
    blocks = pre.detach().split(products.block_rows(pre.shape[1], pre.device))
    found = Latents.join([largest(block) for block in blocks])
    found = _the_largest(found, found.values, count)
    return found.with_values(pre[found.rows, found.indices])


class _Largest:
    """What may be among the `count` largest entries of all rows, while one block of rows comes after another.

    The count-th largest of what was seen is a floor: nothing below it is among the largest of all. The floor rises, so
    that about count × (1 + 1 + 1/2 + 1/3 + …) candidates are found in blocks of equal size.
    """

    def __init__(self, count: int):
        self.count = count
        self.kept: Tensor | None = None

    def __call__(self, gate: Float[Tensor, "row latent"]) -> Latents:
        """The candidates in some rows."""
        found = _entries(gate, (gate < self._floor(gate)).logical_not_())
        values = found.values if self.kept is None else torch.cat([self.kept, found.values])
        self.kept = values if len(values) <= self.count else values.topk(self.count, sorted=False).values
        return found

    def _floor(self, gate: Tensor) -> float:
        if self.kept is not None and len(self.kept) == self.count:
            return float(self.kept.min())
        if gate.shape[1] % _GROUP or gate.numel() < _GROUP * self.count:
            return -torch.inf
        # Of the first rows, the largest of groups of four: so many entries at least are as large.
        return float(gate.unflatten(1, (_GROUP, -1)).amax(1).flatten().topk(self.count, sorted=False).values.min())


def _entries(pre: Tensor, chosen: Tensor) -> Latents:
    where = chosen.flatten().nonzero().squeeze(1)
    width = pre.shape[1]
    begins = torch.arange(len(pre) + 1, device=pre.device) * width
    return Latents(pre.flatten()[where], where % width, width, torch.searchsorted(where, begins))


def _the_largest(found: Latents, by: Tensor, count: int) -> Latents:
    places = by.topk(min(count, len(by)), sorted=False).indices.sort().values
    offsets = torch.searchsorted(places, found.bounds)
    return Latents(found.values[places], found.indices[places], found.width, offsets)


# -- encoding ------------------------------------------------------------------------------------------------------
def encode(x: Columns, W_enc: Columns, b_enc: Float[Tensor, " latent"], choose: Choose) -> Latents:
    """The pre-activations that are chosen, row by row; the others are computed, looked at and forgotten.

    Args:
        x: Rows [row, d], or a list of them, one for each column that is read.
        W_enc: The encoder [latent, d] of every column; what they give is added up.
        b_enc: The bias [latent].
        choose: Called with the pre-activations [row, latent] of some rows at a time, off the autograd path; says which
            places are wanted. It must not depend on how rows are divided into calls.

    Returns:
        The pre-activations at those places, on the autograd path of x, W_enc and b_enc.
    """
    xs, Ws = _listed(x), _listed(W_enc)
    return _with_gradient(_chosen(xs, Ws, b_enc, choose), xs, Ws, b_enc)


def encode_top_k(x: Columns, W_enc: Columns, b_enc: Float[Tensor, " latent"], k: int) -> Latents:
    """The k largest pre-activations of every row, through a relu; in no particular order.

    Args:
        x, W_enc, b_enc: As in `encode`.
        k: Entries of a row.

    Raises:
        BadInput: There are fewer than k latents.
    """
    latents = encode(x, W_enc, b_enc, lambda pre: Latents(*top_k(pre, k), pre.shape[1]))
    return latents.with_values(torch.relu(latents.values))


def encode_top_entries(
    x: Columns,
    W_enc: Columns,
    b_enc: Float[Tensor, " latent"],
    count: int,
    weights: Float[Tensor, " latent"] | None = None,
) -> Latents:
    """The `count` largest pre-activations of all rows together, through a relu.

    Args:
        x, W_enc, b_enc: As in `encode`.
        count: Entries of all rows.
        weights: Of each latent, by which its pre-activations are multiplied while they are compared.
    """
    xs, Ws = _listed(x), _listed(W_enc)
    weights = None if weights is None else weights.detach()
    largest = _Largest(count)
    found = _chosen(xs, Ws, b_enc, lambda pre: largest(pre if weights is None else pre * weights))
    by = found.values if weights is None else found.values * weights[found.indices]
    latents = _with_gradient(_the_largest(found, by, count), xs, Ws, b_enc)
    return latents.with_values(torch.relu(latents.values))


def entries_of(x: Columns, W_enc: Columns, b_enc: Float[Tensor, " latent"], where: Latents) -> Latents:
    """The pre-activations at given places, by one scalar product each.

    Args:
        x, W_enc, b_enc: As in `encode`.
        where: The places; its values do not matter.

    Returns:
        The pre-activations there, on the autograd path of x, W_enc and b_enc.
    """
    xs, Ws = _listed(x), _listed(W_enc)
    with torch.no_grad():
        values = b_enc[where.indices]
        for some, W in zip(xs, Ws, strict=True):
            values = values + products.dots(some, W, where)
    return _with_gradient(where.with_values(values), xs, Ws, b_enc)


@torch.no_grad()
def _chosen(xs: list[Tensor], Ws: list[Tensor], b_enc: Tensor, choose: Choose) -> Latents:
    size = products.block_rows(len(b_enc), b_enc.device)
    held = b_enc.new_empty(min(size, len(xs[0])), len(b_enc))
    parts = []
    for start in range(0, len(xs[0]), size) or [0]:
        blocks = [x[start : start + size] for x in xs]
        pre = torch.addmm(b_enc, blocks[0], Ws[0].T, out=held[: len(blocks[0])])
        for block, W in zip(blocks[1:], Ws[1:], strict=True):
            pre.addmm_(block, W.T)
        where = choose(pre)
        at_places = pre.gather(1, where.indices) if where.offsets is None else pre.take(products.positions(where))
        parts.append(where.with_values(at_places))
    return parts[0] if len(parts) == 1 else Latents.join(parts)


def _with_gradient(where: Latents, xs: list[Tensor], Ws: list[Tensor], b_enc: Tensor) -> Latents:
    values = _PreActivations.apply(where, b_enc, *xs, *Ws)
    return where.with_values(values)  # pyright: ignore[reportArgumentType]


def _listed(columns: Columns) -> list[Tensor]:
    return [columns] if isinstance(columns, Tensor) else list(columns)


class _PreActivations(torch.autograd.Function):
    """Pre-activations that are known already, with their gradient (3)."""

    @staticmethod
    def forward(ctx, where, b_enc, *matrices):
        ctx.save_for_backward(where.indices, where.offsets, *matrices)
        ctx.width = where.width
        return where.values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        indices, offsets, *matrices = ctx.saved_tensors
        latents = Latents(grad, indices, ctx.width, offsets)
        count = len(matrices) // 2
        of_x: list[Tensor | None] = [None] * count
        of_W: list[Tensor | None] = [None] * count
        of_b = None
        for i, (x, W) in enumerate(zip(matrices[:count], matrices[count:], strict=True)):
            if ctx.needs_input_grad[2 + i]:
                of_x[i] = products.gather(latents, W)
            if ctx.needs_input_grad[2 + count + i] or (i == 0 and ctx.needs_input_grad[1]):
                of_W[i], sums = products.transposed(latents, x)
                of_b = sums if i == 0 else of_b
        return None, of_b, *of_x, *of_W


# -- decoding ------------------------------------------------------------------------------------------------------
def decode(latents: Latents, W_dec: Float[Tensor, "latent d"]) -> Float[Tensor, "row d"]:
    """The sum of the rows of W_dec that fire, each times its value.

    Args:
        latents: Codes, in either layout.
        W_dec: What each latent writes. Several columns lie side by side, [latent, columns × d], where one call should
            decode them all.
    """
    return _Decoded.apply(latents.values.to(W_dec.dtype), W_dec, latents.detach())  # pyright: ignore[reportReturnType]


class _Decoded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, W_dec, latents):
        ctx.save_for_backward(values, W_dec, latents.indices, latents.offsets)
        ctx.width = latents.width
        return products.gather(latents.with_values(values), W_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        values, W_dec, indices, offsets = ctx.saved_tensors
        latents = Latents(values, indices, ctx.width, offsets)
        of_values = products.dots(grad, W_dec, latents) if ctx.needs_input_grad[0] else None
        of_W = products.transposed(latents, grad)[0] if ctx.needs_input_grad[1] else None
        return of_values, of_W, None


# -- low-rank maps -------------------------------------------------------------------------------------------------
def frobenius(U: Float[Tensor, "latent out rank"], V: Float[Tensor, "latent rank in"]) -> Float[Tensor, " latent"]:
    """The Frobenius norm of every U V, which is never formed: |U V|² = <Uᵀ U, V Vᵀ>.

    Args:
        U: What writes.
        V: What reads.

    Caveats:
        Where a map is zero its gradient is taken to be zero.
    """
    return _Frobenius.apply(U, V)  # pyright: ignore[reportReturnType]


class _Frobenius(torch.autograd.Function):
    """The gradient of |U V| is U V Vᵀ / |U V| by U and Uᵀ U V / |U V| by V: two products with what is known already."""

    @staticmethod
    def forward(ctx, U, V):
        of_U, of_V = U.mT @ U, V @ V.mT
        norm = (of_U * of_V).sum((1, 2)).clamp_min(0).sqrt()
        ctx.save_for_backward(U, V, of_U, of_V, norm)
        return norm

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        U, V, of_U, of_V, norm = ctx.saved_tensors
        scale = torch.where(norm > 0, grad / norm, 0.0)[:, None, None]
        return U @ (of_V * scale), (of_U * scale) @ V
