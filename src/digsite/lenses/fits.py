"""How well a lens could be fitted: the results that it carries with it."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl
from jaxtyping import Float
from torch import Tensor

from digsite._core.numerics import bootstrap_interval
from digsite.artifacts import Result
from digsite.lenses.lens import point_names


@dataclass(frozen=True, kw_only=True)
class TunedFit(Result):
    """How near to the model a tuned or a future lens came, on text that it was not fitted on.

    Attributes:
        lens: Its name.
        sites: The points of the stream that it was fitted at.
        steps: The steps of training after which it was judged.
        curve: KL from the model to the lens there.
        held: The same at the end, for every row of the held-out text.
        start: The logit lens on the same tokens.
        alone: What the token alone says (bigrams of the text that was learned from), on the same tokens.
    """

    SCHEMA: ClassVar[str] = "lenses.tuned_fit/1"

    lens: str
    sites: tuple[str, ...]
    steps: tuple[int, ...]
    curve: Float[Tensor, "point depth"]
    held: Float[Tensor, "depth example"]
    start: Float[Tensor, "depth example"]
    alone: Float[Tensor, " example"]

    def to_frame(self) -> pl.DataFrame:
        """One row a point of the stream: KL with its 95 % interval, the logit lens, the token alone."""
        low, high = bootstrap_interval(self.held.T)
        return pl.DataFrame(
            {
                "point": point_names(self.sites),
                "kl": self.held.mean(1).tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
                "logit_lens": self.start.mean(1).tolist(),
                "token_alone": float(self.alone.mean()),
                "n": self.held.shape[1],
            }
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = self.to_frame().to_dicts()
        first, last = rows[0], rows[-1]
        lost = [row["point"] for row in rows if row["high"] >= row["logit_lens"]]
        alone = [row["point"] for row in rows if row["high"] >= row["token_alone"]]
        said = f"no nearer than the logit lens at {', '.join(lost)}" if lost else "nearer than it at every point"
        token = f"the token alone is {last['token_alone']:.2f} away"
        token += f", no further than the lens at {', '.join(alone)}" if alone else ""
        return (
            f"The {self.lens} lens is {first['kl']:.2f} nats from the model at {first['point']} (logit lens "
            f"{first['logit_lens']:.2f}) and {last['kl']:.2f} at {last['point']} ({last['logit_lens']:.2f}), {said}; "
            f"{token}; n = {first['n']} held-out rows of text"
        )


@dataclass(frozen=True, kw_only=True)
class JacobianFit(Result):
    """How settled the mean Jacobians of a lens are.

    Attributes:
        sites: The points of the stream.
        prompts: How many prompts the mean is over.
        probes: Random vectors a prompt; 0 where every row of the Jacobian was computed.
        moved: After each prompt but the first, by how much of its length the mean moved, averaged over the points.
        halves: The distance between the means over odd and even prompts, by the length of the whole mean.
        from_identity: Distance of each Jacobian from the identity, by that of the identity from zero.
    """

    SCHEMA: ClassVar[str] = "lenses.jacobian_fit/1"

    sites: tuple[str, ...]
    prompts: int
    probes: int
    moved: Float[Tensor, " point"]
    halves: Float[Tensor, " depth"]
    from_identity: Float[Tensor, " depth"]

    @property
    def error(self) -> Float[Tensor, " depth"]:
        """Of each mean, how large its error is likely to be, by its length: half the distance of the two halves."""
        return self.halves / 2

    def to_frame(self) -> pl.DataFrame:
        """One row a point of the stream: the likely error of the mean, and its distance from the identity."""
        return pl.DataFrame(
            {
                "point": point_names(self.sites),
                "error": self.error.tolist(),
                "from_identity": self.from_identity.tolist(),
                "n": self.prompts,
            }
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        worst = int(self.error.argmax())
        names = point_names(self.sites)
        how = f"{self.probes} random probes a prompt" if self.probes else "every row computed"
        settled = "" if float(self.error[worst]) < 0.1 else "; that is not settled: give more prompts"
        moved = f"; the last prompt moved it by {float(self.moved[-1]):.1e}" if len(self.moved) else ""
        return (
            f"The mean Jacobian of {self.prompts} prompts ({how}) has an error of about "
            f"{float(self.error[worst]):.0%} of its length at {names[worst]}, the worst point{moved}; at {names[-2]} "
            f"it is {float(self.from_identity[-2]):.2f} from the identity{settled}"
        )
