"""From a stream of text examples to a task: keep what this tokenizer can serve, count what it cannot.

1. Candidates are encoded in order, as many at a time as are still wanted.
2. Of several answers, those that this tokenizer never writes after the prompt are left out (see `encode`).
3. Examples whose answers all have one token are preferred, because a row is then an example and the logit difference is
   linear. Whichever kind reaches `n` first makes the task; when the candidates run out, the more frequent kind does. A
   task of longer answers takes the one-token examples along.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from digsite._core.errors import BadInput, explain
from digsite.models import Model
from digsite.tasks.encoding import Encoded, encode
from digsite.tasks.examples import Example
from digsite.tasks.task import Task, assemble

_LONGER = "an answer takes several tokens, and enough others take one"


def build(
    model: Model,
    name: str,
    question: str,
    examples: Iterable[Example],
    n: int,
    *,
    seed: int,
    metric: str = "logit_diff",
    options: Mapping[str, Any] | None = None,
    description: str = "",
) -> Task:
    """A task of up to `n` examples that this model's tokenizer can serve.

    Args:
        model: Its tokenizer decides which examples can be used.
        name: The task's name.
        question: What it asks; `{model}` becomes the model's name.
        examples: Candidates in the order of preference; read only as far as needed.
        n: Examples wanted.
        seed: Of the draw that made the candidates, for the record.
        metric: The task's own metric.
        options: What the family was asked for, beside how many examples and which.
        description: What the prompts are.

    Returns:
        A task of at most `n` examples. `dropped` says how many candidates were left out on the way, and why.

    Raises:
        BadInput: No candidate can be used; the reasons are counted in the message.
    """
    if n < 1:
        raise BadInput(explain(f"A task of {n} examples is no task", do="ask for at least one"))
    stream = iter(examples)
    kept: list[Encoded] = []
    dropped: Counter[str] = Counter()
    short = long = 0
    while short < n and long < n and (chunk := list(islice(stream, n - max(short, long)))):
        for outcome in encode(model, chunk, spare=True):
            if isinstance(outcome, Encoded):
                kept.append(outcome)
                dropped.update(outcome.spared)
                short, long = short + (outcome.answer_width == 1), long + (outcome.answer_width > 1)
            else:
                dropped[outcome.reason] += 1
    if not kept:
        raise BadInput(
            explain(
                f"The task {name} has no example that the tokenizer of {model.name} can serve",
                found="; ".join(f"{count} × {reason}" for reason, count in dropped.most_common()) or "no candidates",
                do="choose another task, or give your own words or templates where the task takes them",
            )
        )
    if long and short >= long:
        kept = [example for example in kept if example.answer_width == 1]
        dropped[_LONGER] += long
    return assemble(
        model,
        kept[:n],
        name=name,
        question=question,
        metric=metric,
        dropped=dict(dropped.most_common()),
        seed=seed,
        options={name: option_text(value) for name, value in (options or {}).items()},
        description=description,
    )


def option_text(value: Any) -> str:
    """An option of a family as a short text: itself, or sixteen hex digits that identify a list of words."""
    if value is None or isinstance(value, str | int):
        return str(value)
    return hashlib.sha256(repr(tuple(value)).encode()).hexdigest()[:16]
