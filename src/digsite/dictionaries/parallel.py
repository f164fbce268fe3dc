"""Training over several processes: latents shared out, rows shared out, or both. Nothing else knows of it.

    torchrun --nproc-per-node 4 train.py        # in train.py: mesh = processes(latents=2); ParallelTrainer(…, mesh)

The processes are a grid: `latents` of them hold one dictionary together, each an equal slice of the latents of every
block; the grid's other side learns from other rows.

1. Each process encodes with its slice. TopK and BatchTopK choose among all latents: each finds its own largest entries,
   their values are gathered, and what is smaller than the last of the largest is set to zero.
2. Each decodes with its slice; what the slices write is added up. Biases and skips stand once, the same in all.
3. Gradients of a slice need nothing from others. The part of a bias's gradient that comes through the encoders is added
   up over slices. Over rows, gradients are averaged.
4. The length of the gradient, the L0 and the threshold of BatchTopK are those of all latents.

So the numbers are those of one process, but for the order in which floats are added. Three things each process does for
itself: AuxK takes dead latents of every slice, an equal share of k each; where rows are shared out, BatchTopK chooses
among those of the process, and a variance that a loss is divided by is theirs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from digsite._core.errors import BadInput, explain
from digsite.dictionaries.activations import AbsTopK, BatchTopK, GroupMax, TopK
from digsite.dictionaries.config import BlockConfig, Free, PerSource, PerTarget
from digsite.dictionaries.dictionary import Block, Dictionary, Pass
from digsite.dictionaries.recipes import Recipe
from digsite.dictionaries.trainer import Trainer
from digsite.store import Latents, Rows


def processes(*, latents: int = 1) -> DeviceMesh:
    """The grid of all processes that torchrun has started.

    Args:
        latents: How many hold one dictionary together; the others learn from other rows.

    Raises:
        BadInput: The number of processes is not a multiple.
    """
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if not dist.is_initialized():
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    count = dist.get_world_size()
    if latents < 1 or count % latents:
        raise BadInput(explain(f"{count} processes cannot be grouped by latents={latents}", do="choose a divisor"))
    return init_device_mesh(kind, (count // latents, latents), mesh_dim_names=("rows", "latents"))


class Sliced(Dictionary):
    """An equal slice of the latents of every block of a dictionary, which encodes and decodes as the whole does.

    Attributes:
        mesh: The grid of processes.
    """

    def __init__(self, whole: Dictionary, mesh: DeviceMesh):
        """Takes this process's slice of a dictionary that every process holds alike.

        Args:
            whole: The dictionary; it is not changed.
            mesh: The grid of processes.

        Raises:
            BadInput: Its latents cannot be shared out equally.
        """
        count, at = mesh["latents"].size(), mesh.get_local_rank("latents")
        super().__init__(replace(whole.config, blocks=tuple(_slice(block, count) for block in whole.config.blocks)))
        self.mesh, self.slices, self._group, self._config = mesh, count, mesh.get_group("latents"), whole.config
        with torch.no_grad():
            for (name, x), (_, every) in zip(_numbers(self), _numbers(whole), strict=True):
                x.copy_(every.chunk(count)[at] if _is_sliced(name, x) else every)
        self.to(whole.b_dec[0].device)

    def whole(self) -> Dictionary:
        """The whole dictionary, in every process."""
        made = Dictionary(self._config).to(self.b_dec[0].device)
        with torch.no_grad():
            for (name, x), (_, here) in zip(_numbers(made), _numbers(self), strict=True):
                x.copy_(torch.cat(self._gathered(here.detach())) if _is_sliced(name, x) else here)
        return made.train(self.training)

    def inputs(self, block: Block, rows: Mapping[str, Tensor]) -> list[Tensor]:
        """What a block's encoder sees; where that is centred, the bias gets its gradient from all slices (3)."""
        seen = super().inputs(block, rows)
        return [_ToAll.apply(x, self._group) for x in seen] if block.config.centred else seen  # pyright: ignore

    def summed(self, made: Tensor) -> Tensor:
        """What all slices write (2)."""
        return _FromAll.apply(made, self._group)  # pyright: ignore[reportReturnType]

    def selected(self, block: Block, x: Sequence[Tensor], pre: Tensor | None = None) -> Latents:
        """The latents of this slice that fire among all (1)."""
        number = next(i for i, one in enumerate(self.blocks) if one is block)
        latents, activation = block.select(x, pre), self._config.blocks[number].activation
        if not isinstance(activation, TopK | BatchTopK) or (isinstance(activation, BatchTopK) and not block.training):
            return latents
        values, indices = latents.values.detach(), latents.indices
        gate = values * block.norms().detach()[indices] if activation.by_norm else values
        every = torch.cat(self._gathered(gate), dim=-1)
        wanted = activation.k if isinstance(activation, TopK) else activation.k * len(x[0])
        least = every.topk(wanted, dim=-1).values[..., -1:] if wanted <= every.shape[-1] else gate.new_zeros(1)
        return latents.with_values(latents.values * (gate >= least))

    def _gathered(self, x: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.slices)]
        dist.all_gather(parts, x.contiguous(), group=self._group)
        return parts


class ParallelTrainer(Trainer):
    """One dictionary in training over a grid of processes; every process makes the same calls.

    Attributes:
        sliced: This process's slice.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        recipe: Recipe,
        mesh: DeviceMesh,
        *,
        steps: int,
        rows: int | None = None,
        seed: int = 0,
    ):
        """Shares a dictionary out.

        Args:
            dictionary: The whole, with the same numbers in every process (`prepare`, or `initialise` with one seed).
            recipe: How it is trained.
            mesh: The grid of processes.
            steps: Of the whole run.
            rows: Of the whole run, over all processes.
            seed: Of what is drawn.

        Raises:
            BadInput: The latents cannot be shared out equally, or the recipe draws latents anew.
        """
        if recipe.resample:
            raise BadInput(
                explain("Latents are not drawn anew over several processes", do="replace(recipe, resample=0)")
            )
        self.mesh, self.sliced = mesh, Sliced(dictionary, mesh)
        super().__init__(self.sliced, recipe, steps=steps, rows=rows, seed=seed)
        self.dead_after = max(1, self.dead_after // mesh["rows"].size())  # each counts its own rows

    def step(self, rows: Rows | Mapping[str, Tensor]) -> None:
        """One step on these rows, of which each process on the grid's side takes its share.

        Args:
            rows: The same in every process.

        Raises:
            BadInput: They cannot be shared out equally.
        """
        rows = rows if isinstance(rows, Rows) else Rows(rows)
        share, rest = divmod(rows.count, self.mesh["rows"].size())
        if rest:
            asked = f"{rows.count} rows cannot be shared out among {self.mesh['rows'].size()} processes"
            raise BadInput(explain(asked, do="choose a batch that is a multiple"))
        first = self.mesh.get_local_rank("rows") * share
        super().step(rows.take(slice(first, first + share)))
        self.seen += rows.count - share

    def _descend(self) -> None:
        group, count = self.mesh.get_group("rows"), self.mesh["rows"].size()
        for x in self.dictionary.parameters():
            if x.grad is None:
                x.grad = torch.zeros_like(x)
            dist.all_reduce(x.grad, group=group)
            x.grad /= count
        super()._descend()

    def _length(self) -> Tensor:
        parts = {True: self.pressure.new_zeros(()), False: self.pressure.new_zeros(())}
        for name, x in self.leaves.items():
            if x.grad is not None:
                parts[_is_sliced(name, x)] += x.grad.square().sum()
        return (self._over(parts[True]) + parts[False]).sqrt()

    def _over(self, here: Tensor, *, least: bool = False) -> Tensor:
        found = here.clone()
        dist.all_reduce(found, dist.ReduceOp.MIN if least else dist.ReduceOp.SUM, group=self.mesh.get_group("latents"))
        dist.all_reduce(found, group=self.mesh.get_group("rows"))  # the mean over those with other rows
        return found / self.mesh["rows"].size()

    def _count(self, passed: Pass, count: int) -> None:
        super()._count(passed, count)
        for quiet in self.quiet:
            dist.all_reduce(quiet, dist.ReduceOp.MIN, group=self.mesh.get_group("rows"))


class _FromAll(torch.autograd.Function):
    """The sum over slices; each slice's gradient is that of the sum."""

    @staticmethod
    def forward(ctx, x, group):
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, None


class _ToAll(torch.autograd.Function):
    """The same to all slices; the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _FromAll.forward(ctx, grad.contiguous(), ctx.group), None


def _slice(block: BlockConfig, count: int) -> BlockConfig:
    """A block with so many times fewer latents."""
    latents, rest = divmod(block.latents, count)
    rows = isinstance(block.decoder, PerSource | PerTarget) or block.decoder == Free()
    apart = not isinstance(block.activation, AbsTopK | GroupMax)
    if rest or not rows or not apart or block.prefixes:
        kinds = f"{block.activation.kind}, decoder {block.decoder.kind}, prefixes {block.prefixes}"
        found = f"{block.latents} latents by {kinds}"
        possible = f"a multiple of {count}, not abstopk or groupmax, decoder rows for every latent, no prefixes"
        raise BadInput(
            explain(f"These latents cannot be shared out to {count} processes", found=found, possible=possible)
        )
    activation = block.activation
    if isinstance(activation, TopK | BatchTopK):
        activation = replace(activation, k=min(activation.k, latents))
    return replace(block, latents=latents, activation=activation)


def _is_sliced(name: str, x: Tensor) -> bool:
    """Whether a parameter has a row for every latent."""
    return name.startswith("blocks.") and ".W_skip." not in name and x.ndim > 0


def _numbers(dictionary: Dictionary) -> list[tuple[str, Tensor]]:
    return [*dictionary.named_parameters(), *dictionary.named_buffers()]
