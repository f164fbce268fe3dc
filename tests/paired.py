"""A task of random pairs for models without a tokenizer."""

import torch

from architectures import VOCAB


def paired_task(n=4, lengths=(7,), *, same=False, seed=0):
    """Random prompts in pairs that differ at the position of the span "subject"; one right and one wrong answer."""
    from digsite.models.tokens import grid
    from digsite.tasks import Task
    from digsite.tasks.answers import Answers

    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randint(3, VOCAB, shape, generator=generator)

    rows = [draw(lengths[i % len(lengths)]).tolist() for i in range(n)]
    spans = torch.tensor([[len(row) // 2, len(row) // 2 + 1] for row in rows])
    other = [list(row) for row in rows]
    if not same:
        for row, (start, _) in zip(other, spans.tolist(), strict=True):
            row[start] = (row[start] + 7 - 3) % (VOCAB - 3) + 3

    def answers():
        ids = draw(n, 1, 1)
        rows_ = torch.arange(n)[:, None]
        return Answers(ids, torch.ones_like(ids, dtype=torch.bool), rows_, tuple((str(int(i)),) for i in ids))

    return Task(
        name="pairs",
        question="?",
        clean=grid(rows, padding="left"),
        corrupt=grid(other, padding="left"),
        right=answers(),
        wrong=answers(),
        spans={"subject": spans},
        groups=("",) * n,
    )
