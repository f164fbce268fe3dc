"""The future lens: what the stream at a token already says of the tokens after the next one.

A tuned lens (see `tuned`) whose target lies `ahead` tokens later: from the stream at token t, the affine map after
which the readout says what the model says at token t + ahead, of the token t + ahead + 1.
"""

from digsite._core.errors import BadInput, explain
from digsite.lenses.lens import Lens
from digsite.lenses.tuned import Fitting, fitted
from digsite.models import Model
from digsite.tasks import Corpus


def fit_future(
    model: Model,
    corpus: Corpus,
    held_out: Corpus,
    *,
    ahead: int = 1,
    steps: int = 400,
    batch: int = 4,
    rate: float = 0.003,
    bias: bool = True,
    judged_rows: int = 16,
    seed: int = 0,
) -> Lens:
    """A lens that was trained to say, from the stream at a token, what the model will say some tokens later.

    Args:
        model: The model.
        corpus: What is learned from.
        held_out: What the fit is judged on.
        ahead: How many tokens later; 1 is the token after the next one.
        steps: Steps of training.
        batch: Rows of text in a step.
        rate: Of Adam; see `fit_tuned`.
        bias: Whether the map adds a constant.
        judged_rows: Rows of the held-out text that are used.
        seed: Of the order in which tokens are learned from.

    Returns:
        The lens; `lens.fit` has what the token alone says of the token so much later, without which its numbers say
        nothing: much of what a future lens reads are frequent pairs of words.

    Raises:
        BadInput: `ahead` below 1, or as `fit_tuned`.
        NotFinite: As `fit_tuned`.

    Units: nats per token.

    Source:
        Pal et al. 2023, "Future Lens: anticipating subsequent tokens from a single hidden state" (arXiv:2311.04897),
        the linear model; ours is trained on the divergence, not on the last stream.

    Caveats:
        The target is what the model says once it has read the tokens between, which the stream here has not seen: no
        lens can reach it.
    """
    if ahead < 1:
        raise BadInput(explain(f"ahead={ahead} is not in the future", possible="1 or more", do="for 0, fit_tuned"))
    call = (
        f"digsite.lenses.fit_future(model, corpus, held_out, ahead={ahead}, steps={steps}, batch={batch}, rate={rate}, "
        f"bias={bias})"
    )
    return fitted(model, corpus, held_out, Fitting("future", ahead, steps, batch, rate, bias, judged_rows, seed), call)
