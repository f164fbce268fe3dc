"""Which of several classes: multinomial logistic, judged on held-out texts (`stacked` has the steps).

A class is never a number to us: labels are turned into one-hot rows, so their order and size say nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import wilson_interval
from digsite._core.recording import method
from digsite.directions.probes.solving import PENALTIES, Standard
from digsite.directions.probes.stacked import Stack, Weights, fitted, gathered, patterns, thrifty
from digsite.models import Model, Tokens, made_by
from digsite.models.tokens import Positions
from digsite.sites import Site


@dataclass(frozen=True, kw_only=True)
class ClassProbe(Stack):
    """How well one of several classes can be read at a site.

    Attributes:
        classes: Of the held-out examples, as places in `names`.
        scores: The log odds of each class, up to a constant for each example.
        null: Accuracy with the classes of other groups.
    """

    SCHEMA: ClassVar[str] = "directions.class_probe/1"

    classes: Int[Tensor, " example"]
    scores: Float[Tensor, "example target"]
    null: Float[Tensor, " draw"]

    @property
    def accuracy(self) -> float:
        """On held-out examples."""
        return float((self.scores.argmax(1) == self.classes).double().mean())

    def to_frame(self) -> pl.DataFrame:
        """One row a class: how often it is read where it is so, with the 95 % interval; and one for all."""
        right, rows = self.scores.argmax(1) == self.classes, []
        for name, mine in [
            *((name, self.classes == at) for at, name in enumerate(self.names)),
            ("all", torch.ones_like(right)),
        ]:
            n, hits = int(mine.sum()), int(right[mine].sum())
            low, high = wilson_interval(hits, n) if n else (None, None)
            share = {"accuracy": hits / n if n else None, "low": low, "high": high}
            rows.append({"class": name, **share, "share": n / len(right), "n": n})
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        *each, whole = self.to_frame().to_dicts()
        common = max(row["share"] for row in each)
        reached = float(self.null.quantile(0.975)) if len(self.null) else None
        failed = ["the most frequent class"] if common >= whole["low"] else []
        failed += ["shuffled classes"] if reached is not None and reached >= whole["low"] else []
        lost = f"; it does no better than {' and '.join(failed)}" if failed else ""
        null = "" if reached is None else f", shuffled classes up to {reached:.2f} (95 %)"
        return (
            f"{self.label}: one of {len(self.names)} classes read at {self.site} with an accuracy of "
            f"{whole['accuracy']:.2f} (95 % {whole['low']:.2f} to {whole['high']:.2f}); most frequent class "
            f"{common:.2f}{null}{lost}; n = {whole['n']} held-out examples, fitted on {self.trained}"
        )


@method
def class_probe(
    model: Model,
    tokens: Tokens,
    classes: Sequence[Any] | Int[Tensor, "batch *pos"],
    site: str | Site,
    *,
    at: Positions = -1,
    groups: Sequence[int] | Int[Tensor, " batch"] | None = None,
    name: str = "class",
    draws: int = 20,
    held_out: float = 0.5,
    seed: int = 0,
) -> ClassProbe:
    """How well one of several classes can be read at a site, judged on texts that were held out.

    Args:
        model: The model.
        tokens: The texts.
        classes: The class of each text (words or numbers, whose order means nothing), or of each column of `tokens`.
        site: Where they are read.
        at: At which positions; None for every token but the BOS.
        groups: Texts of one number lie on one side of the split; None where each is alone.
        name: What the classes are.
        draws: How often classes are shuffled.
        held_out: The share of the groups that is held out.
        seed: Of the split and the null.

    Raises:
        BadInput: One class only, a class of which one side of the split has no example, or not as many as texts.
        NotFinite: An activation is NaN or infinite.

    Units: accuracy, a fraction.

    Caveats:
        As `probe`. Only differences of the directions mean something: a vector added to all changes no probability.
    """
    listed = classes.tolist() if isinstance(classes, Tensor) else list(classes)
    flat = [one for row in listed for one in row] if listed and isinstance(listed[0], list) else listed
    names = sorted(set(flat))
    if len(names) < 2:
        raise BadInput(explain("A probe between classes needs two or more", found=", ".join(map(str, names))))
    code = torch.tensor([names.index(one) for one in flat])
    known = code.reshape(tokens.ids.shape) if len(code) == tokens.ids.numel() != len(tokens) else code

    def fit(x: Tensor, y: Tensor, parts: Tensor, penalty: float | None) -> tuple[Weights, float]:
        chosen = thrifty(x, y, parts, PENALTIES, _softmax(len(names)), cross_entropy) if penalty is None else penalty
        return _softmax(len(names))(x, y, chosen), chosen

    with measure() as cost:
        data = gathered(model, tokens, known, site, at, groups, held_out, seed)
        for part, what in ((data.train, "fitted on"), (data.test, "held out")):
            missing = [str(one) for i, one in enumerate(names) if not bool((data.y[part] == i).any())]
            if missing:
                asked = f"Every class needs examples among those {what}"
                raise BadInput(explain(asked, found=f"none of {', '.join(missing[:6])}", do="give more examples"))
        (readers, biases), null = fitted(data, fit, draws, seed, lambda s, y: float((s.argmax(1) == y).double().mean()))
    return ClassProbe(
        label=name,
        site=str(site),
        names=tuple(map(str, names)),
        vectors=patterns(data.x[data.train], one_hot(data.y[data.train], len(names)).double()),
        readers=readers,
        biases=biases,
        trained=len(data.train),
        classes=data.y[data.test],
        scores=data.x[data.test] @ readers.T + biases,
        null=null,
        provenance=made_by(
            f"digsite.directions.probes.class_probe(model, tokens, classes, {str(site)!r}, at={at}, seed={seed})",
            model,
            tokens.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def _softmax(count: int) -> Callable[[Tensor, Tensor, float], Weights]:
    """2. Minimises C Σ weight · cross entropy + |W|²/2 on standardised coordinates, every class weighing alike."""

    def fit(x: Tensor, y: Tensor, C: float) -> Weights:
        standard = Standard.of(x[None])
        z = standard.z[0]
        weights = len(y) / count / torch.bincount(y, minlength=count).clamp_min(1).double()
        W = torch.zeros(count, z.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([W], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = C * cross_entropy(z @ W[:, :-1].T + W[:, -1], y, weights, reduction="sum")
            loss = loss + W[:, :-1].square().sum() / 2
            loss.backward()
            return loss

        with torch.enable_grad():
            optimiser.step(closure)
        done = W.detach()[None]
        back = standard.back(done[..., :-1], done[..., -1])
        return back.reader[0], back.bias[0]

    return fit
