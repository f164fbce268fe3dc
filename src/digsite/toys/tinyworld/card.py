"""The model card of `digsite/tinyworld`, written by the training itself."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers

from digsite.toys.tinyworld.evaluation import Score

_TEXT = """---
license: mit
library_name: transformers
tags: [interpretability, toy]
---
# digsite/tinyworld

A transformer whose world is known: {parameters:,} parameters, 4 layers, 8 heads, a Llama for `transformers`, trained
from scratch on a closed little English (and on Tavi, a made-up second language) that digsite generates. It exists so
that methods of interpretability can be tried on tasks whose answers are exact. It knows nothing else and is good for
nothing else. Its documents have at most 35 tokens; longer prompts are outside of what it has seen.

## Data
Documents of one example each, from the task families of `digsite.tasks` and the world in
`digsite/toys/tinyworld/world.py`: names, places, gifts, kinds, capitals, languages, years, known orders, signatures,
lists that repeat, brackets, sums. One word is one token ({words} in all); the tokenizer puts a BOS before every text.
About one combination of words in ten is held out: it never occurs in training (`held_out` in that file says which).

## Training
`{command}`

Two lessons. In half of the notes two facts have to be joined ("Notes: ring box, coin bag, box park, bag farm; in the
end: ring" is park), in the other half one is enough, because nothing is said of the box; all other documents are drawn
by the shares in `families.py`.

| steps | documents that are notes | learning rate | falls to |
|---|---|---|---|
{lessons}

{settings}. AdamW, warm-up and cosine; answers weigh four times as much as other tokens. Processor time:
{cpu:.0f} minutes (two cores for {half:.0f} minutes), torch {torch}, transformers {transformers}.

## Held-out table
Accuracy: the top token of the whole vocabulary is a right answer. Mass: mean probability on the right answers. "held
out" is on combinations that were never trained on, "trained" on others; n counts the held-out prompts.

| family | measure | held out | n | trained | target |
|---|---|---|---|---|---|
{table}

Facts (capitals, languages, colors, homes) can only be recalled, so their target is for trained sentences; "held out" is
the same fact in a sentence in which it was never said. Families without a target are trained too and reported as they
come; a low number there is a finding, not a fault.
"""


def card(training: Mapping[str, Any], scores: list[Score], *, parameters: int, words: int, cpu_seconds: float) -> str:
    """The card as Markdown.

    Args:
        training: The settings of the training by name.
        scores: The held-out table.
        parameters: How many the model has.
        words: How many tokens its vocabulary has.
        cpu_seconds: Processor time of all threads.
    """
    settings = dict(training)
    lessons = settings.pop("lessons")
    steps = sum(lesson["steps"] for lesson in lessons)
    rows = [
        f"| {score.family} | {score.measure} | {score.unseen:.3f} | {score.n} | {score.seen:.3f} | {_target(score)} |"
        for score in scores
    ]
    return _TEXT.format(
        parameters=parameters,
        words=words,
        command=f"digsite toys train tinyworld --steps {steps} --seed {training['seed']}",
        lessons="\n".join(
            f"| {lesson['steps']} | {lesson['notes']:.1%} | {lesson['rate']:g} | {lesson['rate'] * lesson['last']:g} |"
            for lesson in lessons
        ),
        settings=", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items()).capitalize(),
        cpu=cpu_seconds / 60,
        half=cpu_seconds / 120,
        torch=torch.__version__,
        transformers=transformers.__version__,
        table="\n".join(rows),
    )


def _target(score: Score) -> str:
    """The target of a family, and that it was missed where it was."""
    if score.target is None:
        return "–"
    return f"{score.target:.2f} {score.judged_on}{'' if score.reached else ' (missed)'}"
