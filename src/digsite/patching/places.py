"""Places of a task's rows: names for the columns that are patched together."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.tasks import Task

At = str | int | Sequence[str] | None


def places(task: Task, at: At) -> Iterator[tuple[str, Int[Tensor, "batch k"]]]:
    """Names of places, and the columns of each row that belong to one.

    Args:
        task: Its rows.
        at: None for all positions at once (no columns); "each" for one position at a time (rows of one length); a
            position; the names of spans of the task, one at a time; "answer" is where the answer is read.

    Raises:
        BadInput: A span that is empty in a row, or rows of several lengths where each position is a place.
    """
    tokens, starts = task.clean, torch.tensor(task.clean.starts)
    if at is None:
        yield "all", torch.zeros(len(tokens), 0, dtype=torch.long)
    elif isinstance(at, int):
        yield f"position {at}", tokens.places(at).columns.unsqueeze(1)
    elif at == "each":
        if len(set(tokens.lengths)) > 1:
            raise BadInput(
                explain(
                    'at="each" needs prompts of one length',
                    found=f"{min(tokens.lengths)} to {max(tokens.lengths)} tokens",
                    do="name spans (at=['S2']), or take the examples of one template",
                )
            )
        for position in range(tokens.lengths[0]):
            yield str(position), (starts + position).unsqueeze(1)
    else:
        for name in [at] if isinstance(at, str) else at:
            if name == "answer":
                yield name, tokens.places(task.answer_position).columns.unsqueeze(1)
            else:
                yield name, starts[:, None] + span_positions(task, name)


def span_positions(task: Task, name: str) -> Int[Tensor, "batch k"]:
    """The positions of a span in every row; where it is shorter than in another row its last one stands again.

    Raises:
        BadInput: No such span, or one that is empty in a row.
    """
    spans = task.row_spans(name)
    widths = spans[:, 1] - spans[:, 0]
    if bool((widths == 0).any()):
        without = (widths == 0).nonzero().flatten().tolist()
        raise BadInput(
            explain(
                f"The span {name} is empty in some rows",
                found=f"{len(without)} rows, the first of example {int(task.example_rows[without[0]])}",
                do="take the examples that have it",
            )
        )
    steps = torch.arange(int(widths.max()))
    return torch.minimum(spans[:, :1] + steps, spans[:, 1:] - 1)


def lined_up(task: Task) -> None:
    """Refuses a task whose clean and corrupt rows do not line up.

    Raises:
        BadInput: No corrupt rows, or rows of another length.
    """
    clean, corrupt = task.clean, task.require_corrupt()
    if clean.ids.shape != corrupt.ids.shape or not torch.equal(clean.mask, corrupt.mask):
        wrong = next(i for i, pair in enumerate(zip(clean.lengths, corrupt.lengths, strict=True)) if pair[0] != pair[1])
        raise BadInput(
            explain(
                "Clean and corrupt prompts must have the same length: a position of one stands for that of the other",
                found=f"row {wrong} has {clean.lengths[wrong]} tokens clean and {corrupt.lengths[wrong]} corrupt",
                do="use a corruption that keeps the length, or take only the pairs of equal length",
            )
        )
