"""An alarm that watches a direction while a model writes."""

from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite.directions.direction import Direction


class Alarm:
    """Watches a direction while a model writes, one token of each row after the other.

    Attributes:
        direction: What is read.
        level: A reading above it sets the alarm off.
        tokens: How many tokens were seen.
        first: For each row the number of the token that set it off, None where none did.
    """

    def __init__(self, direction: Direction, level: int | float):
        self.direction, self.level = direction, level
        self.tokens, self.first = 0, ()

    def see(self, x: Float[Tensor, "row width"]) -> Bool[Tensor, " row"]:
        """Which rows fire at this token.

        Args:
            x: The activations of the newest token of each row at the direction's site.

        Raises:
            ShapeMismatch: Activations of another width.
            BadInput: Another number of rows than before.
            NotFinite: An activation is NaN or infinite.
        """
        fires = self.direction.read(require_finite("an activation", x)) > self.level
        before = self.first if self.tokens else (None,) * len(fires)
        if len(before) != len(fires):
            asked = "An alarm sees the same rows at each token"
            raise BadInput(explain(asked, found=f"{len(fires)} rows, {len(before)} before"))
        now = zip(before, fires.tolist(), strict=True)
        self.first = tuple(self.tokens if fire and first is None else first for first, fire in now)
        self.tokens += 1
        return fires
