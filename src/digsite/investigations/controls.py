"""Tasks in which there is nothing to find: random prompts, and answers of other examples.

What a method says of them it says of any task: it is no fact about the model.
"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.models import Model, Tokens
from digsite.models.tokens import grid, pad_id
from digsite.tasks import Task
from digsite.tasks.answers import number_rows, share_rows


def random_prompts(model: Model, task: Task, *, seed: int = 0) -> Task:
    """The task with random ordinary tokens in the place of its prompts: same lengths, positions, answers.

    Special tokens such as the BOS stay. Clean and corrupt prompts differ where they did before, so that what a method
    exchanges has the same places.

    Args:
        model: Whose vocabulary the tokens are of.
        task: The task.
        seed: Of the tokens.
    """
    tokenizer = task.clean.tokenizer or model.tokenizer
    special = torch.tensor([] if tokenizer is None else sorted(set(tokenizer.all_special_ids)), dtype=torch.long)
    every = torch.arange(model.d_vocab if tokenizer is None else min(len(tokenizer), model.d_vocab))
    ordinary = every[~torch.isin(every, special)]
    generator = torch.Generator().manual_seed(seed)
    shape = (len(task), task.clean.ids.shape[1])
    drawn = [ordinary[torch.randint(len(ordinary), shape, generator=generator)] for _ in range(2)]
    forced = torch.zeros(len(task.clean), dtype=torch.long)  # tokens of a long answer, which its row ends with
    for side in (task.right, task.wrong):
        forced[side.rows[side.real]] = side.mask.sum(-1)[side.real] - 1

    def filled(tokens: Tokens, draw: Tensor, own: Tensor) -> Tokens:
        position = torch.arange(tokens.ids.shape[1]) - torch.tensor(tokens.starts)[:, None]
        prompt = tokens.mask & (position < (tokens.mask.sum(-1) - forced)[:, None])
        free = prompt & ~torch.isin(tokens.ids, special) & own
        new = draw[task.example_rows].gather(1, position.clamp(min=0, max=draw.shape[1] - 1))
        return Tokens(torch.where(free, new, tokens.ids), tokens.mask, bos=tokens.bos, tokenizer=tokens.tokenizer)

    clean = filled(task.clean, drawn[0], torch.ones_like(task.clean.mask))
    corrupt = None
    if task.corrupt is not None:
        corrupt = filled(task.corrupt, drawn[0], torch.ones_like(task.corrupt.mask))
        if task.corrupt.ids.shape == task.clean.ids.shape:
            corrupt = filled(corrupt, drawn[1], task.corrupt.ids != task.clean.ids)
    return replace(task, clean=clean, corrupt=corrupt, description=f"random tokens in the place of: {task.description}")


def others_answers(task: Task, *, seed: int = 0) -> Task:
    """The task with its answers, right and wrong together, given to other examples by chance.

    Args:
        task: The task.
        seed: Of the shuffle.

    Raises:
        BadInput: All examples have the same answers, so that nothing can be shuffled.
    """
    order = torch.randperm(len(task), generator=torch.Generator().manual_seed(seed))
    right, wrong = task.right.take(order), task.wrong.take(order)
    sides = ((right, task.right), (wrong, task.wrong))
    if all(torch.equal(a.ids.masked_fill(~a.mask, -1), b.ids.masked_fill(~b.mask, -1)) for a, b in sides):
        found = f"{len(task)} examples"
        raise BadInput(explain("The answers are the same in all examples: shuffled, nothing changes", found=found))
    description = f"answers of other examples: {task.description}"
    if task.keep == 1:
        return replace(task, right=share_rows(right), wrong=share_rows(wrong), description=description)
    first, right_wrong = task.right.rows[:, 0], number_rows(right, wrong)
    made = {}
    for name in ("clean", "corrupt"):
        tokens: Tokens | None = getattr(task, name)
        if tokens is not None:
            prompts = [_real(tokens, int(row))[:length] for row, length in zip(first, task.prompt_lengths, strict=True)]
            rows = [
                torch.cat([prompts[example], side.ids[example, choice][side.mask[example, choice]][:-1]]).tolist()
                for side in (right, wrong)
                for example, choice in side.real.nonzero().tolist()
            ]
            pad = pad_id(tokens.tokenizer)
            made[name] = grid(rows, pad=pad, padding="left", bos=tokens.bos, tokenizer=tokens.tokenizer)
    return replace(task, **made, right=right_wrong[0], wrong=right_wrong[1], description=description)


def _real(tokens: Tokens, row: int) -> Int[Tensor, " pos"]:
    return tokens.ids[row][tokens.mask[row]]
