"""What a head or a neuron says by itself: what it writes, in tokens.

1. One run reads what each head made of its values (`attn.z`) or how active each neuron is (`mlp.act`), and the last
   stream, at one position of each row.
2. Each part's share of the stream goes through the final norm with its scale held, and the unembedding
   (`models.direct`): its direct effect on every logit. The mean over tokens is taken off, which no softmax sees.
3. The tokens that are raised and lowered most, by the mean over rows; the effect on each in every row.
4. Null: a random direction that is as long in every row as what the part writes there; its highest mean effect.
5. With a task, the effect towards the right answers and away from the wrong ones: a row of `direct_attribution`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite._core.visible import visible
from digsite.artifacts import Result
from digsite.models import Model, Tokens, made_by
from digsite.models.direct import heads_written, neurons_written, require_a_sum, through_final_norm, unembedding
from digsite.models.run import Run
from digsite.models.tokens import grid
from digsite.tasks import Task

Part = tuple[int, int]
"""A layer, and a head or a neuron of it."""
TOP = 8


@dataclass(frozen=True, kw_only=True)
class WrittenTokens(Result):
    """What parts of a model write, in tokens.

    Attributes:
        parts: Heads or neurons: "layers.2.attn.result[3]", "layers.1.mlp.act 17".
        raised: The tokens that each raises most, by the mean over rows, the strongest first.
        raised_by: By how much, in each row, in logits above the mean over tokens.
        lowered: The tokens that each lowers most.
        lowered_by: By how much.
        norm: How long what is written is in each row, as the unembedding reads it.
        null: The highest mean effect of random directions of that length, for each draw.
        towards: With a task, the effect on the logit difference of its answers, in each row; else of no part.
        words: How the tokens are written, by id.
    """

    SCHEMA: ClassVar[str] = "lenses.written_tokens/1"

    parts: tuple[str, ...]
    raised: Int[Tensor, "part top"]
    raised_by: Float[Tensor, "part top example"]
    lowered: Int[Tensor, "part top"]
    lowered_by: Float[Tensor, "part top example"]
    norm: Float[Tensor, "part example"]
    null: Float[Tensor, "part draw"]
    towards: Float[Tensor, "_ example"]
    words: dict[str, str]

    def to_frame(self) -> pl.DataFrame:
        """One row for each part and token, raised ones first: the mean effect, its interval, the null's highest."""
        rows = []
        highest = self.null.max(1).values.tolist()
        sides = (("raised", self.raised, self.raised_by), ("lowered", self.lowered, self.lowered_by))
        for at, part in enumerate(self.parts):
            for side, ids, effects in sides:
                low, high = bootstrap_interval(effects[at].T)
                for place, token in enumerate(ids[at].tolist()):
                    rows.append(
                        {
                            "part": part,
                            "side": side,
                            "token": self.words[str(token)],
                            "effect": float(effects[at, place].mean()),
                            "low": float(low[place]),
                            "high": float(high[place]),
                            "null": highest[at],
                        }
                    )
        return pl.DataFrame(rows).with_columns(pl.selectors.float().fill_nan(None), n=pl.lit(self.norm.shape[1]))

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        strongest = int((self.raised_by[:, 0].mean(-1) - self.null.max(1).values).argmax())
        effect, null = float(self.raised_by[strongest, 0].mean()), float(self.null[strongest].max())
        low, high = bootstrap_interval(self.raised_by[strongest, 0])
        words = ", ".join(visible(self.words[str(token)]) for token in self.raised[strongest, :3].tolist())
        said = "more than" if float(low) > null else "no more than"
        return (
            f"{self.parts[strongest]} raises {words} most, the first by {effect:.2f} logits (95 % {low:.2f} to "
            f"{high:.2f}), {said} a random direction of its length raises anything (at most {null:.2f}; "
            f"n = {self.norm.shape[1]} rows)"
        )


@method
def head_lens(
    model: Model,
    rows: Tokens | Task,
    heads: Sequence[Part] | None = None,
    *,
    at: int | Int[Tensor, " batch"] = -1,
    top: int = TOP,
    draws: int = 10,
    seed: int = 0,
) -> WrittenTokens:
    """What each head says by itself at a position, in tokens.

    Args:
        model: The model.
        rows: Tokens, or a task, whose clean rows are run.
        heads: (layer, head) of each; all if None.
        at: The position of each row, counted from its first token, or from its end if negative.
        top: Tokens to keep of each.
        draws: Random directions of the null.
        seed: Of these.

    Raises:
        BadInput: A head that the model does not have.
        Unsupported: Norms sit inside the stream.

    Units: logits, relative to the mean over tokens, before a soft-cap.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; nostalgebraist 2020 for the lens.

    Caveats:
        The direct effect alone: what later layers make of it is not in it.
    """
    every = [(i, h) for i in _layers(model, "attn.result") for h in range(model.n_heads)]
    chosen = known_parts(every if heads is None else heads, every, "head")

    def written(run: Run, layer: int, some: list[int]) -> Tensor:
        return heads_written(model, layer, run[f"layers.{layer}.attn.z"])[:, some]

    names = [f"layers.{layer}.attn.result[{head}]" for layer, head in chosen]
    call = f"digsite.lenses.head_lens(model, rows, {chosen}, at={at}, seed={seed})"
    return _lens(model, rows, chosen, names, written, site="attn.z", at=at, top=top, draws=draws, seed=seed, call=call)


@method
def neuron_lens(
    model: Model,
    rows: Tokens | Task,
    neurons: Sequence[Part],
    *,
    at: int | Int[Tensor, " batch"] = -1,
    top: int = TOP,
    draws: int = 10,
    seed: int = 0,
) -> WrittenTokens:
    """What each neuron says by itself at a position, in tokens: its activation times its output weights.

    Args:
        model: The model.
        rows: Tokens, or a task, whose clean rows are run.
        neurons: (layer, neuron) of each.
        at: The position of each row, counted from its first token, or from its end if negative.
        top: Tokens to keep of each.
        draws: Random directions of the null.
        seed: Of these.

    Raises:
        BadInput: A neuron that the model does not have.
        Unsupported: Norms sit inside the stream.

    Units: logits, relative to the mean over tokens, before a soft-cap.

    Source: Geva et al. 2022, "Transformer Feed-Forward Layers Build Predictions by Promoting Concepts in the Vocabulary
    Space".

    Caveats:
        The direct effect alone. A neuron that is silent at this position says nothing here, whatever its weights say:
        ask `neuron_outputs` for those.
    """
    every = [(i, n) for i in _layers(model, "mlp.act") for n in range(model.weights.W_out[i].shape[0])]
    chosen = known_parts(neurons, every, "neuron")

    def written(run: Run, layer: int, some: list[int]) -> Tensor:
        return neurons_written(model, layer, run[f"layers.{layer}.mlp.act"], some)

    names = [f"layers.{layer}.mlp.act {neuron}" for layer, neuron in chosen]
    call = f"digsite.lenses.neuron_lens(model, rows, {chosen}, at={at}, seed={seed})"
    return _lens(model, rows, chosen, names, written, site="mlp.act", at=at, top=top, draws=draws, seed=seed, call=call)


Written = Callable[[Run, int, list[int]], Float[Tensor, "example part d_model"]]


@torch.no_grad()
def _lens(
    model: Model,
    rows: Tokens | Task,
    chosen: list[Part],
    names: list[str],
    written: Written,
    *,
    site: str,
    at: int | Tensor,
    top: int,
    draws: int,
    seed: int,
    call: str,
) -> WrittenTokens:
    require_a_sum(model)
    task = rows if isinstance(rows, Task) else None
    tokens = rows.clean if isinstance(rows, Task) else rows
    layers = list(dict.fromkeys(layer for layer, _ in chosen))
    last = f"layers.{model.n_layers - 1}.resid_post"
    with measure() as cost:
        # 1. One run.
        run = model.run(tokens, read=[*(f"layers.{i}.{site}" for i in layers), last], at=at, logits=None)
        turn = unembedding(model)
        turn = turn - turn.mean(1, keepdim=True)
        away = None if task is None else _away(task, turn)
        noise = torch.randn(draws, model.d_model, generator=torch.Generator().manual_seed(seed)).to(turn)
        highest = ((noise / noise.norm(dim=1, keepdim=True)) @ turn).max(1).values
        found: dict[str, list[Tensor]] = {}
        places: list[int] = []
        for layer in track(layers, "reading what is written"):
            of_layer = [(place, number) for place, (where, number) in enumerate(chosen) if where == layer]
            places += [place for place, _ in of_layer]
            # 2. What the unembedding reads of each part.
            parts = written(run, layer, [number for _, number in of_layer])
            for share in through_final_norm(model, parts, run[last][:, None]).unbind(1):
                for name, value in _moved(share, turn, highest, away, top).items():
                    found.setdefault(name, []).append(value.cpu())
    order = torch.tensor(places).argsort()
    fields = {name: torch.stack(values)[order].contiguous() for name, values in found.items()}
    used = torch.cat([fields["raised"], fields["lowered"]]).unique().tolist()
    return WrittenTokens(
        parts=tuple(names),
        words=spelled(model, used),
        **({"towards": torch.zeros(0, len(tokens))} | fields),
        provenance=made_by(call, model, rows.fingerprint, seed=seed),
        cost=cost,
    )


def _moved(
    share: Float[Tensor, "example d_model"],
    turn: Float[Tensor, "d_model vocab"],
    highest: Float[Tensor, " draw"],
    away: Float[Tensor, "example d_model"] | None,
    top: int,
) -> dict[str, Tensor]:
    """3. to 5. The tokens that one part moves most, what chance moves, and what it does towards the answers."""
    mean = share.mean(0) @ turn
    norm = share.norm(dim=1)
    found = {"norm": norm, "null": norm.mean() * highest}
    for name, sign in (("raised", 1), ("lowered", -1)):
        ids = (sign * mean).topk(min(top, len(mean))).indices
        found |= {name: ids, f"{name}_by": (share @ turn[:, ids]).T}
    return found if away is None else found | {"towards": (share * away).sum(1)}


def _away(task: Task, turn: Float[Tensor, "d_model vocab"]) -> Float[Tensor, "example d_model"]:
    """The direction that reads each example's logit difference."""
    right, wrong = (
        torch.einsum("ec,ecd->ed", weights.to(turn), turn.T[ids.to(turn.device)])
        for ids, weights in task.answer_direction_ids()
    )
    return right - wrong


def _layers(model: Model, site: str) -> list[int]:
    return [i for i in range(model.n_layers) if model.anatomy.has((i, site))]


def known_parts(parts: Sequence[Part], every: Sequence[Part], what: str) -> list[Part]:
    """The parts that are asked for, each known to the model.

    Raises:
        BadInput: None, or one that the model does not have.
    """
    chosen = [(int(layer), int(number)) for layer, number in parts]
    wrong = sorted(set(chosen) - set(every))
    if wrong or not chosen:
        raise BadInput(
            explain(
                f"{wrong[0]} is no {what} of this model" if wrong else f"No {what} was asked for",
                possible=f"(layer, {what}) of {len(every)}, the last {every[-1]}"
                if every
                else f"none: it has no {what}",
            )
        )
    return chosen


def spelled(model: Model, ids: Iterable[int]) -> dict[str, str]:
    """How tokens are written, by id."""
    ids = sorted(set(ids))
    shown = grid([[token] for token in ids], tokenizer=model.tokenizer).strings if ids else []
    return {str(token): text for token, (text,) in zip(ids, shown, strict=True)}
