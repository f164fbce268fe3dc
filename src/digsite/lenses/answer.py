"""Where in depth the answer to a task can be read: a lens at every point of the stream.

1. Record the stream before the first block and after every block, at the position of the answer.
2. Carry each to the vocabulary by the lens: the logit lens, or one that was fitted.
3. Score each with the task's metrics; the last layer must agree with the model's own logits.
"""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, Unsupported, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.lenses.lens import Lens, point_names, same_model
from digsite.models import Model, made_by
from digsite.tasks import Task


@dataclass(frozen=True, kw_only=True)
class AnswerByDepth(Result):
    """Where in depth the answer becomes readable, for every example.

    Attributes:
        lens: The lens that it was read through.
        layers: "embed", "layer 0", … : the points of the stream that were read.
        right: Probability of the right answers there.
        wrong: Probability of the wrong answers: the control that the right one must leave behind.
        logit_diff: Logit difference there, in logits.
        rank: Rank of the best right answer (1 = top).
        kl: KL divergence from the model's own output to the lens, in nats, summed over the vocabulary.
        last_layer_error: Largest difference between the last layer's lens and the model's logits.
    """

    SCHEMA: ClassVar[str] = "lenses.answer_by_depth/1"

    lens: str
    layers: tuple[str, ...]
    right: Float[Tensor, "layer example"]
    wrong: Float[Tensor, "layer example"]
    logit_diff: Float[Tensor, "layer example"]
    rank: Float[Tensor, "layer example"]
    kl: Float[Tensor, "layer example"]
    last_layer_error: float

    def to_frame(self) -> pl.DataFrame:
        """One row a layer: means with 95 % bootstrap intervals."""
        columns: dict[str, object] = {"layer": list(self.layers)}
        for name in ("right", "wrong", "logit_diff", "rank", "kl"):
            values = getattr(self, name)
            low, high = bootstrap_interval(values.T)
            columns |= {name: values.mean(1).tolist(), f"{name}_low": low.tolist(), f"{name}_high": high.tolist()}
        return pl.DataFrame(columns).with_columns(n=pl.lit(self.right.shape[1]))

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        first = next((i for i, rank in enumerate(self.rank.median(1).values.tolist()) if rank == 1), None)
        where = "never on top" if first is None else f"on top from {self.layers[first]} on"
        right, wrong = self.right[-1].mean(), self.wrong[-1].mean()
        through = "The answer" if self.lens == "logit" else f"Through the {self.lens} lens the answer"
        return (
            f"{through} is {where} (probability at the end {right:.2f}, wrong answers {wrong:.2f}; "
            f"n = {self.right.shape[1]})"
        )


@method
def logit_lens(model: Model, task: Task, lens: Lens | None = None) -> AnswerByDepth:
    """Where in depth the answer becomes readable.

    Args:
        model: The model.
        task: One-token answers.
        lens: A lens of this model (`digsite.lenses.fit_tuned`, …); the logit lens if None.

    Returns:
        Probabilities, logit difference, rank and KL for every layer and example, with the wrong answers as control.

    Raises:
        Unsupported: Answers have several tokens.
        BadInput: The lens is of another model, or looks ahead.

    Units:
        Probabilities are fractions; the logit difference is in logits; KL in nats.

    Source:
        nostalgebraist 2020, "interpreting GPT: the logit lens". Final norm, unembedding bias, logit scale and
        soft-cap are the model's own, so that the last layer is the model.

    Caveats:
        A direction that later layers read may be invisible to the unembedding: "not readable here" is not "not here".
        Early layers tend to echo the input token.
    """
    if task.keep > 1:
        raise Unsupported(explain("The logit lens reads one-token answers", found=f"answers of up to {task.keep}"))
    lens = Lens(model) if lens is None else lens
    same_model(lens, model)
    if lens.ahead:
        raise BadInput(explain(f"The {lens.name} lens does not say the next token", do="give a lens with ahead=0"))
    with measure() as cost:
        # 1. The stream at the answer position.
        run = model.run(task.clean, read=lens.sites, at=task.answer_position, logits=1)
        final = run.logits
        # 2. and 3. Carried to the vocabulary and scored, a layer at a time.
        scores: dict[str, list[Tensor]] = {name: [] for name in ("right", "wrong", "logit_diff", "rank", "kl")}
        last = final
        for site in lens.sites:
            with torch.no_grad():
                last = lens.logits(run[site], site).unsqueeze(1)
            scores["right"].append(task.metric(last, "prob"))
            scores["wrong"].append(task.metric(last, "prob") - task.metric(last, "prob_diff"))
            scores["logit_diff"].append(task.metric(last, "logit_diff"))
            scores["rank"].append(task.metric(last, "rank").float())
            scores["kl"].append(task.metric(last, "kl", reference=final))
        error = float((last - final).abs().max())
    return AnswerByDepth(
        lens=lens.name,
        layers=point_names(lens.sites),
        last_layer_error=error,
        **{name: torch.stack(values).float() for name, values in scores.items()},
        provenance=made_by(
            f"digsite.logit_lens(model, task{'' if lens.kind == 'logit' else ', lens'})", model, task.fingerprint
        ),
        cost=cost,
    )
