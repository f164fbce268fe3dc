"""Does the network carry its program where it should, and nowhere else? Measured on rows that it never saw.

1. Behaviour: the share of rows that it answers.
2. Interchange: one aligned node computes what it computes on another row. Counted are pairs of rows where the program's
   answer then is another one.
3. Strict: each other node, and all of them at once, compute what they compute on another row. The answer must stay.
4. Edges: each is cut by itself (see `Aligned.cut`). Those of the program must matter more than any other.

Everything here goes through `Model.run` and its edits, and shares no line with the training.
"""

import numpy as np
import torch

from digsite._core.cost import measure
from digsite._core.recording import method
from digsite.models import load
from digsite.toys.aligned.aligned import Aligned, moved
from digsite.toys.aligned.program import UNDEFINED, Program
from digsite.toys.aligned.siit import nodes
from digsite.toys.trained.claims import at_least, at_most, findings, thinned
from digsite.toys.trained.toy import Findings
from digsite.toys.training import Trained

ROWS = 1000
EDGE_ROWS = 256
RIGHT, ALONE, TOGETHER, TRUE_EDGE, FALSE_EDGE = 0.97, 0.02, 0.05, 0.05, 0.04
"""What the numbers are held to: shares of answers, then shares of probability that move."""


@method
def examine(trained: Trained, seed: int, *, program: Program) -> Findings:
    """Measures behaviour, interchange, strictness and edges."""
    with measure() as cost, torch.no_grad():
        toy = Aligned(program=program, model=load(trained.network))
        rng = np.random.default_rng([seed, 0, 1])
        rows, donors = (program.rows(rng, ROWS, held_out=True) for _ in range(2))
        own, base = torch.from_numpy(program.answers(rows)), toy.exchanged(rows, donors, [])
        claims = [at_least("held-out rows answered", _share(base, own), RIGHT)]
        for step in program.steps:
            wanted = torch.from_numpy(program.answers(rows, donors, [step.name]))
            telling = (wanted != own) & (wanted != UNDEFINED)
            given = toy.exchanged(rows, donors, [step.node])
            text = f"answers that follow when {step.node} carries another row's {step.name}"
            claims.append(at_least(text, _share(given[telling], wanted[telling]), RIGHT))
        others = [node for node in nodes(program.layers) if node not in {step.node for step in program.steps}]
        alone = [float(moved(base, toy.exchanged(rows, donors, [node])).mean()) for node in others]
        together = float(moved(base, toy.exchanged(rows, donors, others)).mean())
        cuts = dict(zip(toy.all_edges, toy.cut(toy.all_edges, EDGE_ROWS, seed=seed + 1).tolist(), strict=True))
        true, false = ([cuts[edge] for edge in cuts if (edge in toy.edges) is which] for which in (True, False))
    unit = "of the probability"
    claims += [
        at_most(
            "moved by another row's output of the node that should not matter and matters most", max(alone), ALONE, unit
        ),
        at_most("moved when all nodes that should not matter are another row's", together, TOGETHER, unit),
        at_least("moved by cutting the weakest of the program's edges", min(true), TRUE_EDGE, unit),
        at_most("moved by cutting the strongest other edge", max(false), FALSE_EDGE, unit),
    ]
    curves = {
        "loss over steps": thinned(trained.losses),
        "probability moved by cutting an edge of the program": (torch.arange(len(true)), sorted(true)),
        "probability moved by cutting another edge": (torch.arange(len(false)), sorted(false)),
    }
    return findings(program.name, claims, curves, seed=seed, cost=cost)


def _share(logits: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((logits.argmax(-1) == wanted).float().mean())
