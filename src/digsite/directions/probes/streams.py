"""What a direction reads token by token, while a model writes or in a text that is there."""

import numpy as np

from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite._core.progress import track
from digsite.directions.direction import Direction
from digsite.directions.measuring import content
from digsite.directions.probes.prompts import BATCH
from digsite.models import Model, Sampling, Tokens
from digsite.models.measure import TokenSource


def readings_of_generation(
    model: Model, direction: Direction, prompts: Tokens | TokenSource, new: int, sample: Sampling | None, times: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """The readings of every token that was written and read again."""
    if not isinstance(prompts, Tokens):
        raise BadInput(
            explain("A model goes on from prompts", do="give model.tokens([…]), or new=None to read a corpus")
        )
    if new < 2:
        raise BadInput(explain(f"new={new} leaves no token to read", possible="2 or more: no pass reads the last one"))
    rows: list[np.ndarray] = []
    groups: list[int] = []
    plan = [(turn, start) for turn in range(times) for start in range(0, len(prompts), BATCH)]
    for turn, start in track(plan, "writing"):
        part = prompts[slice(start, start + BATCH)]
        drawn = sample
        if sample is not None:  # a seed of its own for each batch, or all of them would draw alike
            drawn = Sampling(
                temperature=sample.temperature,
                top_k=sample.top_k,
                top_p=sample.top_p,
                seed=sample.seed + turn * len(prompts) + start,
            )
        made = model.generate(part, max_new_tokens=new, read=[direction.site], sample=drawn)
        scores, tokens = direction.read(made).double().cpu(), made.run.tokens
        width = made.prompt.ids.shape[1]
        for at, (row, real) in enumerate(zip(scores[:, width:], tokens.mask[:, width:], strict=True)):
            if bool(real.any()):
                rows.append(require_finite("a reading", row[real]).numpy())
                groups.append(start + at)
    return rows, np.array(groups)


def readings_of_text(
    model: Model, direction: Direction, source: Tokens | TokenSource
) -> tuple[list[np.ndarray], np.ndarray]:
    """The readings of every token of a text but the BOS."""
    rows = []
    for tokens in source.batches(BATCH):
        scores = direction.read(model.run(tokens, read=[direction.site], logits=None)).double().cpu()
        for row, keep in zip(scores, content(tokens, model.tokenizer), strict=True):
            if bool(keep.any()):
                rows.append(require_finite("a reading", row[keep]).numpy())
    return rows, np.arange(len(rows))
