"""What steering is meant to change: one number for each prompt, whatever it is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.visible import visible
from digsite.directions.direction import Direction
from digsite.models import Model, Run, Tokens
from digsite.sites import Site
from digsite.tasks import Task


@dataclass(frozen=True, eq=False, kw_only=True)
class Target:
    """A number for each prompt that steering is meant to raise.

    Attributes:
        name: What it is, as a phrase.
        unit: Its unit.
        prompts: The rows that are run.
        score: The numbers of a run of those rows, one for each example.
        reads: Sites that the score reads, besides logits.
        columns: The last columns of the logits that it reads; 0 for none.
    """

    name: str
    unit: str
    prompts: Tokens
    score: Callable[[Run], Float[Tensor, " example"]]
    reads: tuple[Site, ...] = ()
    columns: int = 1


def log_odds(
    logits: Float[Tensor, "*axes vocab"], tokens: Sequence[int], against: Sequence[int] | None = None
) -> Float[Tensor, "*axes"]:
    """How likely the next token is one of a set, as log odds: log Σ p - log (1 - Σ p).

    Args:
        logits: Of the next token.
        tokens: The set.
        against: Another set that takes the place of all other tokens: log Σ p - log Σ p'.

    Units: nats; 0 is one half.

    Source: Arditi et al. 2024, arXiv 2406.11717, section 2.3 ("refusal metric"); any set of tokens works.
    """
    wide = logits.double()
    chosen = torch.tensor(list(tokens), device=logits.device)
    if against is not None:
        rest = wide[..., torch.tensor(list(against), device=logits.device)]
    else:
        rest = wide.index_fill(-1, chosen, -torch.inf)
    return (wide[..., chosen].logsumexp(-1) - rest.logsumexp(-1)).to(logits.dtype)


def token_ids(model: Model, tokens: Sequence[str | int]) -> list[int]:
    """The ids of tokens that are given as ids, or as strings of one token with their leading space.

    Raises:
        BadInput: None are given, one is given twice, a string is not one token, or an id is not in the vocabulary.
    """
    if isinstance(tokens, str):
        raise BadInput(explain("Tokens come as a list", found="one bare string", do=f"[{tokens!r}]"))
    found = []
    for token in tokens:
        ids = [token] if isinstance(token, int) else _ids(model, token)
        if len(ids) != 1 or not 0 <= ids[0] < model.d_vocab:
            raise BadInput(explain(f"{token!r} is not one token of {model.name}", found=f"ids {ids}"))
        found += ids
    if not found or len(set(found)) < len(found):
        raise BadInput(explain("A set of tokens has one or more, each once", found=f"{list(tokens)}"))
    return found


def _ids(model: Model, text: str) -> list[int]:
    """The ids of a text as it follows a word, and by itself where that is no token of its own."""
    start, whole = (model.tokens([before], special=False).ids[0].tolist() for before in ("a", f"a{text}"))
    if whole[: len(start)] == start and len(whole) == len(start) + 1:
        return whole[len(start) :]
    return model.tokens([text], special=False).ids[0].tolist()


def token_target(
    model: Model, prompts: Tokens, tokens: Sequence[str | int], *, against: Sequence[str | int] | None = None
) -> Target:
    """The log odds that the next token is one of a set, at the last token of each prompt; see `log_odds`.

    Args:
        model: Its tokenizer makes the ids.
        prompts: The prompts.
        tokens: Ids, or strings of one token with their leading space.
        against: The tokens that they are weighed against; None for all others.
    """
    ids = token_ids(model, tokens)
    other = None if against is None else token_ids(model, against)
    if other is not None and set(ids) & set(other):
        raise BadInput(explain("The same token is on both sides", found=f"{list(tokens)} and {list(against or ())}"))
    prompts = prompts.padded_left()
    name = f"log odds of {listed(tokens)}" + ("" if against is None else f" against {listed(against)}")
    return Target(name=name, unit="nats", prompts=prompts, score=lambda run: log_odds(run.logits[:, -1], ids, other))


def task_target(task: Task) -> Target:
    """The metric of a task on its clean prompts."""
    return Target(
        name=f"{task.metric_name.replace('_', ' ')} of {task.name}",
        unit=task.unit,
        prompts=task.clean,
        score=lambda run: task.metric(run.logits),
        columns=task.keep,
    )


def probe_target(probe: Direction, prompts: Tokens) -> Target:
    """What a probe reads at the last token of each prompt; one at a later layer than is steered.

    Args:
        probe: A direction that was found apart from the one that is steered with.
        prompts: The prompts.
    """
    places = prompts.places(-1)
    return Target(
        name=f"reading of {probe.name or probe.how} at {probe.site}",
        unit="of the reading",
        prompts=prompts,
        score=lambda run: probe.read(run[probe.site][places.rows, places.columns]),
        reads=(probe.site,),
        columns=0,
    )


def listed(tokens: Sequence[str | int]) -> str:
    """Tokens as a person reads them, a leading space as `·`; of many the first."""
    named = [visible(token) if isinstance(token, str) else str(token) for token in tokens]
    return ", ".join(named if len(named) <= 4 else [*named[:3], f"… ({len(named)} tokens)"])
