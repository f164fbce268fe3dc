"""A head-by-position activation-patching sweep against the loop that one would write by hand.

1. The built-in model, one IOI sentence with 1, 8 and 64 pairs of names: every head's z at every position, clean into
   corrupt. Corruption "flip" changes the second subject, so that the first ten positions are the same in both; "abc"
   changes every name, so that nearly all positions differ. The sweep runs nothing where both runs agree.
2. The loop runs one forward pass a patch, all prompts in one batch: `model.run(corrupt, edits=[patch(head, at=...)])`.
3. The sweep is `digsite.activation_patching` whole, which also measures a null for each patch: an equally large change
   in a random direction, on the first 32 examples. So the loop that it is held against runs a second pass a patch for
   those. The loop without nulls is in the table too.
4. Results first: the metric of every patch and prompt. Then interleaved rounds of processor time.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

import digsite
from digsite.patching.activation import NULL_EXAMPLES
from digsite.sites import Site

from .rounds import apart, interleaved
from .table import Row, Table, conditions

SENTENCE = "As {A} and {B} waited near the {place}, {C} threw the {gift} to"
SETTINGS = ((1, "flip"), (8, "flip"), (64, "flip"), (8, "abc"), (64, "abc"))
TARGET = 3.0
TOLERANCE = 1e-5
ROUNDS = 7


def loop(model: digsite.Model, task: digsite.Task, *, null: bool) -> Tensor:
    """Metric [patch, example], one forward pass a patch (and one a null), in the order of the sweep's cells."""
    corrupt, first = task.require_corrupt(), slice(NULL_EXAMPLES)
    sites = [Site("attn.z", layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    donor, base = (model.run(tokens, read="layers.*.attn.z", logits=task.keep) for tokens in (task.clean, corrupt))
    scores = []
    for site in sites:
        for position in range(task.clean.lengths[0]):
            run = model.run(corrupt, edits=[digsite.patch(site, donor, at=position)], logits=task.keep)
            scores.append(task.metric(run.logits))
            if null:
                change = (donor[site] - base[site])[first, position]
                step = normalize(torch.randn_like(change), dim=-1) * change.norm(dim=-1, keepdim=True)
                moved = base[site][first, position] + step
                model.run(corrupt[first], edits=[digsite.replace(site, moved, at=position)], logits=task.keep)
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
        whole, bare = partial(loop, model, task, null=True), partial(loop, model, task, null=False)
        fast = partial(sweep, model, task)
        with torch.no_grad():
            wanted = whole()
            differences = [0.0, apart(bare(), wanted), apart(fast(), wanted)]
            timings = interleaved([whole, bare, fast], rounds=rounds or ROUNDS, warm=0)
        length = task.clean.lengths[0]
        setting = f"{n} prompt{'s' if n > 1 else ''} of {length} tokens, {len(wanted)} patches, corruption {corruption}"
        names = (
            ("loop", "one forward pass a patch, one a null"),
            ("loop", "without nulls"),
            ("digsite", "activation_patching"),
        )
        rows += [
            Row(
                setting=setting,
                who=who,
                name=name,
                value=timing.ms,
                ratio=1 / timing.ratio,
                low=1 / timing.high,
                high=1 / timing.low,
                apart=difference,
                tolerance=TOLERANCE,
                target=TARGET if who == "digsite" else None,
            )
            for (who, name), timing, difference in zip(names, timings, differences, strict=True)
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
