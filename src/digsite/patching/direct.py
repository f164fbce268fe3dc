"""Direct attribution: split a logit difference exactly into what each component writes.

The final norm is linear once its scale is fixed at the value it had. Then the logit difference is a sum over what was
written into the last stream:

1. For every example form the direction d = mean W_U[:, right] - mean W_U[:, wrong].
2. Record what every component adds to the stream at the answer position: the stream before the first block (embed),
   every head's share of its layer's attention output, that layer's output bias, every MLP output.
3. A post-norm after attention or MLP is applied to each share with its scale fixed, as the final norm is in step 4.
4. Each component's attribution is norm_linear(component) · d × logit scale; biases of final norm and unembedding are
   one more component.
5. The attributions of one example sum to its logit difference; the largest miss is in the result.

The null repeats step 4 with the direction of another example.
"""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.numerics import bootstrap_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.models import Model, Run, made_by
from digsite.models.direct import heads_written, require_a_sum, through_final_norm
from digsite.models.readout import logit_scale, softcap
from digsite.tasks import Task


@dataclass(frozen=True, kw_only=True)
class DirectAttribution(Result):
    """What each component writes towards the answer, for every example.

    Attributes:
        components: "embed", "layers.0.attn.z[0]", …, "layers.0.mlp.out", …, "biases".
        values: Attribution of each component, in logits; the sum over components is the metric.
        null: The same with the answers of another example.
        metric: The logit difference of each example (before a soft-cap, where the model has one).
        error: Largest |sum of attributions - metric| over examples, in logits.
    """

    SCHEMA: ClassVar[str] = "patching.direct_attribution/1"

    components: tuple[str, ...]
    values: Float[Tensor, "component example"]
    null: Float[Tensor, "component example"]
    metric: Float[Tensor, " example"]
    error: float

    def to_frame(self) -> pl.DataFrame:
        """One row a component, strongest first: mean, 95 % interval, null."""
        low, high = bootstrap_interval(self.values.T)
        frame = pl.DataFrame(
            {
                "component": list(self.components),
                "effect": self.values.mean(1).tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
                "null": self.null.mean(1).tolist(),
            }
        ).with_columns(n=pl.lit(len(self.metric)))
        return frame.sort(pl.col("effect").abs(), descending=True)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        top = self.to_frame().row(0, named=True)
        return (
            f"{top['component']} writes {top['effect']:+.2f} of the logit difference of {self.metric.mean():.2f} "
            f"(95 % {top['low']:.2f} to {top['high']:.2f}; null {top['null']:+.2f}; n = {len(self.metric)})"
        )


@method
def direct_attribution(model: Model, task: Task) -> DirectAttribution:
    """What each component writes towards the answer.

    Args:
        model: The model.
        task: One-token right and wrong answers.

    Returns:
        An exact decomposition of the logit difference, with the sum's error and a null.

    Raises:
        Unsupported: Answers of several tokens, or a model whose stream is not a sum (norms inside it).

    Units:
        Logits.

    Source:
        Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (logit attribution), with the final
        norm's scale fixed at its value.

    Caveats:
        Direct effects only: a head that works through later heads shows nothing here. With a final soft-cap (Gemma 2)
        the difference before the cap is decomposed.
    """
    require_a_sum(model)
    with measure() as cost:
        names, sites = _recorded(model)
        last = f"layers.{model.n_layers - 1}.resid_post"
        run = model.run(task.clean, read=[*sites, last], at=task.answer_position, logits=1)
        written = _written(model, run)
        direction, bias = _directions(model, task)
        values = _attributions(model, written, run[last], direction, bias)
        shuffled = torch.roll(torch.arange(len(direction)), 1)
        null = _attributions(model, written, run[last], direction[shuffled], bias[shuffled])
        metric = task.metric(run.logits, "logit_diff").float()
        if softcap(model.hf) is not None:
            stream = _attributions(model, {"stream": run[last].float()}, run[last], direction, bias)
            metric = stream.sum(0)
    return DirectAttribution(
        components=(*names, "biases"),
        values=values,
        null=null,
        metric=metric,
        error=float((values.sum(0) - metric).abs().max()),
        provenance=made_by("digsite.direct_attribution(model, task)", model, task.fingerprint),
        cost=cost,
    )


def _recorded(model: Model) -> tuple[list[str], list[str]]:
    names, sites = ["embed"], ["layers.0.resid_pre"]
    for block in model.anatomy.blocks:
        layer = f"layers.{block.index}"
        if model.anatomy.has((block.index, "attn.result")):
            names += [f"{layer}.attn.z[{head}]" for head in range(model.n_heads)] + [f"{layer}.attn.bias"]
            sites += [f"{layer}.attn.z", f"{layer}.attn.out"]
        elif model.anatomy.has((block.index, "attn.out")):
            names, sites = [*names, f"{layer}.attn.out"], [*sites, f"{layer}.attn.out"]
        else:
            names, sites = [*names, f"{layer}.mixer"], [*sites, f"{layer}.resid_pre", f"{layer}.resid_post"]
        if model.anatomy.has((block.index, "mlp.out")):
            names, sites = [*names, f"{layer}.mlp.out"], [*sites, f"{layer}.mlp.out"]
    return names, sites


def _written(model: Model, run: Run) -> dict[str, Float[Tensor, "example d_model"]]:
    """What every component adds to the stream at the answer position."""
    anatomy = model.anatomy
    written = {"embed": run["layers.0.resid_pre"].float()}
    for block in anatomy.blocks:
        layer = f"layers.{block.index}"
        has_out = anatomy.has((block.index, "attn.out"))
        if anatomy.has((block.index, "attn.result")):
            out = run[f"{layer}.attn.out"].float()
            heads = heads_written(model, block.index, run[f"{layer}.attn.z"])
            for head in range(model.n_heads):
                written[f"{layer}.attn.z[{head}]"] = heads[:, head]
            written[f"{layer}.attn.bias"] = out - heads.sum(1)
        elif has_out:
            written[f"{layer}.attn.out"] = run[f"{layer}.attn.out"].float()
        has_mlp = anatomy.has((block.index, "mlp.out"))
        if not has_out:  # a state-space or mixed block: what it adds besides its MLP
            written[f"{layer}.mixer"] = run[f"{layer}.resid_post"].float() - run[f"{layer}.resid_pre"].float()
            written[f"{layer}.mixer"] -= run[f"{layer}.mlp.out"].float() if has_mlp else 0
        if has_mlp:
            written[f"{layer}.mlp.out"] = run[f"{layer}.mlp.out"].float()
    return written


def _directions(model: Model, task: Task) -> tuple[Float[Tensor, "example d_model"], Float[Tensor, " example"]]:
    """The direction in front of the unembedding that reads each example's logit difference, and its bias."""
    scale = logit_scale(model.hf)
    w_u, b_u = model.weights.W_U.float(), model.weights.b_U
    directions, biases = [], []
    for ids, weights in task.answer_direction_ids():
        weights = weights.float().to(w_u.device)
        ids = ids.to(w_u.device)
        directions.append(torch.einsum("ec,ecd->ed", weights, w_u.T[ids]) * scale)
        biases.append((weights * b_u.float()[ids]).sum(-1) * scale if b_u is not None else weights.sum(-1) * 0)
    return directions[0] - directions[1], biases[0] - biases[1]


def _attributions(
    model: Model, written: dict[str, Tensor], last: Tensor, direction: Tensor, bias: Tensor
) -> Float[Tensor, "component example"]:
    rows = [(through_final_norm(model, x, last) * direction).sum(-1) for x in written.values()]
    shift = 0.0 if model.anatomy.final_norm is None else model.anatomy.final_norm.bias
    constant = (shift.float() * direction).sum(-1) if isinstance(shift, Tensor) else direction.sum(-1) * 0
    return torch.stack([*rows, constant + bias])
