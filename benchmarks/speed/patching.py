"""A head-by-position activation-patching sweep against the loop that one would write by hand.

1. The built-in model, one IOI sentence with 1, 8 and 64 pairs of names: every head's z at every position, clean into
   corrupt. Corruption "flip" changes the second subject, so that the first ten positions are the same in both; "abc"
   changes every name, so that nearly all positions differ. The sweep runs nothing where both runs agree.
2. The loop runs one forward pass a patch, all prompts in one batch: `model.run(corrupt, edits=[patch(head, at=...)])`.
3. The sweep is `digsite.activation_patching` whole: it also measures its null, which the loop has not got.
4. Results first: the metric of every patch and prompt. Then interleaved rounds of processor time.
"""

from functools import partial

import torch
from torch import Tensor

import digsite
from digsite.sites import Site

from .rounds import apart, interleaved
from .table import Row, Table, conditions

SENTENCE = "As {A} and {B} waited near the {place}, {C} threw the {gift} to"
SETTINGS = ((1, "flip"), (8, "flip"), (64, "flip"), (8, "abc"), (64, "abc"))
TARGET = 3.0
TOLERANCE = 1e-5
ROUNDS = 7


def loop(model: digsite.Model, task: digsite.Task) -> Tensor:
    """Metric [patch, example], one forward pass a patch, in the order of the sweep's cells."""
    corrupt = task.require_corrupt()
    sites = [Site("attn.z", layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    donor = model.run(task.clean, read="layers.*.attn.z", logits=task.keep)
    scores = []
    for site in sites:
        for position in range(task.clean.lengths[0]):
            run = model.run(corrupt, edits=[digsite.patch(site, donor, at=position)], logits=task.keep)
            scores.append(task.metric(run.logits))
    return torch.stack(scores)


def sweep(model: digsite.Model, task: digsite.Task) -> Tensor:
    """The same from `activation_patching`."""
    return digsite.activation_patching(model, task, "layers.*.attn.z[*]", at="each").patched


def measure(*, peers: bool, rounds: int | None) -> Table:
    """Runs the benchmark; no peer has a counterpart on this model, so there are none."""
    model = digsite.load("digsite/tinyworld")
    rows = []
    for n, corruption in SETTINGS:
        task = digsite.tasks.ioi(model, n=n, corruption=corruption, templates=[SENTENCE])  # pyright: ignore[reportArgumentType]
        slow, fast = partial(loop, model, task), partial(sweep, model, task)
        with torch.no_grad():
            wanted = slow()
            difference = apart(fast(), wanted)
            by_hand, ours = interleaved([slow, fast], rounds=rounds or ROUNDS, warm=0)
        length = task.clean.lengths[0]
        setting = f"{n} prompt{'s' if n > 1 else ''} of {length} tokens, {len(wanted)} patches, corruption {corruption}"
        rows += [
            Row(setting=setting, who="loop", name="one forward pass a patch", value=by_hand.ms, ratio=1.0),
            Row(
                setting=setting,
                who="digsite",
                name="activation_patching, null included",
                value=ours.ms,
                ratio=1 / ours.ratio,
                low=1 / ours.high,
                high=1 / ours.low,
                apart=difference,
                tolerance=TOLERANCE,
                target=TARGET,
            ),
        ]
    return Table(
        name="patching",
        question="How much faster is a sweep of activation patching than one forward pass a patch?",
        unit="ms",
        better="higher",
        rows=rows,
        conditions=conditions(
            rounds=rounds or ROUNDS, time="process CPU", model=f"digsite/tinyworld {model.fingerprint}"
        ),
    )
