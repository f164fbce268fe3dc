"""What the metric gains from a change at the input of every reader, from one backward pass, kept small.

1. One forward pass keeps the queries, keys and values of every layer, the input of every MLP and the last stream on the
   autograd path; one backward pass gives the gradients there. Nothing is repeated for each head.
2. The gradient at the input of one head's query is W_Q of that head applied backwards, then the norm applied backwards
   (`Norm.adjoint`). This is done for a few rows at a time, when scores are made.
3. Scores are one matrix product for each layer: of what the writers before it wrote with the gradients at its inputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import count_backward
from digsite.circuits.places import EVERYWHERE, Places
from digsite.circuits.written import Outputs, Written
from digsite.graphs import EdgeSpace
from digsite.models import Edit, Model, Tokens
from digsite.tasks import Task

BYTES = 2**26
"""How much of what writers wrote is expanded at once."""
PARTS = ("q", "k", "v")


@dataclass(frozen=True)
class Slopes:
    """Gradients of the metric, one row each.

    Attributes:
        heads: For each layer the gradients at q, k and v: [row, position, head, d_head].
        mlp: For each layer the gradient at the MLP's input, before its norm.
        last: The gradient at the last stream, before the final norm.
        streams: For each layer the stream that its attention reads.
    """

    heads: tuple[tuple[Tensor, Tensor, Tensor], ...]
    mlp: tuple[Tensor, ...]
    last: Tensor
    streams: tuple[Tensor, ...]

    def rows(self, index: slice) -> "Slopes":
        """Some rows."""
        return Slopes(
            tuple(tuple(part[index] for part in layer) for layer in self.heads),  # pyright: ignore[reportArgumentType]
            tuple(one[index] for one in self.mlp),
            self.last[index],
            tuple(one[index] for one in self.streams),
        )


class Inputs:
    """How the readers of a model read.

    Args:
        model: The model.
        frozen: Take every norm's scale for a constant.
    """

    def __init__(self, model: Model, *, frozen: bool = False):
        self.model, self.frozen = model, frozen
        weights = model.weights
        self.weights = [[getattr(weights, f"W_{part.upper()}")[i] for part in PARTS] for i in range(model.n_layers)]
        self.norms = [weights.norm(i, "attn") for i in range(model.n_layers)]
        self.sites = [
            *(f"layers.*.{name}" for name in ("resid_pre", "mlp.in", *(f"attn.{part}" for part in PARTS))),
            f"layers.{model.n_layers - 1}.resid_post",
        ]

    def slopes(self, task: Task, tokens: Tokens, *, edits: Sequence[Edit] = (), metric: str | None = None) -> Slopes:
        """Gradients of the metric on some rows, from one forward and one backward pass."""
        model = self.model
        run = model.run(tokens, read=self.sites, edits=edits, logits=task.keep, grad=True)
        layers = range(model.n_layers)
        heads = [run[f"layers.{i}.attn.{part}"] for i in layers for part in PARTS]
        mlps = [run[f"layers.{i}.mlp.in"] for i in layers]
        last = run[f"layers.{model.n_layers - 1}.resid_post"]
        found = torch.autograd.grad(
            task.metric(run.logits, metric).sum(), [*heads, *mlps, last], materialize_grads=True, allow_unused=True
        )
        count_backward(len(tokens))
        n = model.n_layers
        return Slopes(
            tuple((found[3 * i], found[3 * i + 1], found[3 * i + 2]) for i in layers),
            found[3 * n : 4 * n],
            found[-1],
            tuple(run[f"layers.{i}.resid_pre"].detach() for i in layers),
        )

    def expand(self, slopes: Slopes) -> Iterator[Float[Tensor, "batch reader pos d_model"]]:
        """The gradient at every reader, a group of readers that read the same writers at a time, in order."""
        parallel = self.model.anatomy.arch.parallel
        for layer, (heads, mlp) in enumerate(zip(slopes.heads, slopes.mlp, strict=True)):
            back = torch.cat(
                [
                    torch.einsum("bphk,hdk->bhpd", gradient, weight)
                    for gradient, weight in zip(heads, self.weights[layer], strict=True)
                ],
                1,
            )
            norm = self.norms[layer]
            if norm is not None:
                back = norm.adjoint(back, slopes.streams[layer].unsqueeze(1), frozen=self.frozen).to(back.dtype)
            if parallel:
                yield torch.cat([back, mlp.unsqueeze(1)], 1)
            else:
                yield back
                yield mlp.unsqueeze(1)
        yield slopes.last.unsqueeze(1)


def contract(
    space: EdgeSpace,
    outputs: Outputs,
    inputs: Inputs,
    difference: Written,
    slopes: Slopes,
    places: Places = EVERYWHERE,
) -> Float[Tensor, "batch place writer reader"]:
    """The score of every edge of every row: what its writer wrote differently, times the gradient at its reader.

    Args:
        space: The edges.
        outputs: How writers write.
        inputs: How readers read.
        difference: What the writers wrote in one run and not in the other.
        slopes: The gradients.
        places: Over which scores are summed apart.
    """
    n, width, d_model = slopes.last.shape
    count, of = len(places.names), places.of
    scores = slopes.last.new_zeros(n, count, len(space.writers), len(space.readers), dtype=torch.float32)
    step = max(1, BYTES // (4 * (len(space.writers) + 4 * inputs.model.n_heads) * width * d_model))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        written = outputs.expand(difference.rows(rows)).float()
        reader = 0
        for gradient in inputs.expand(slopes.rows(rows)):
            before, end = space.before[reader], reader + gradient.shape[1]
            there, back = written[:, :before], gradient.float()
            for place in range(count):
                here = back if of is None else back * (of[rows, None, :, None] == place)
                scores[rows, place, :before, reader:end] = there.flatten(2) @ here.flatten(2).mT
            reader = end
    return scores
