"""The figures of what is said in tokens: patchscopes against their controls, and what heads and neurons write."""

import torch

from digsite._core.figures import draws
from digsite._core.numerics import bootstrap_interval
from digsite._core.visible import visible
from digsite.lenses import Patchscope, WrittenTokens
from digsite.viz.axes import Axis
from digsite.viz.bars import bars
from digsite.viz.estimate import Control
from digsite.viz.figure import Figure
from digsite.viz.lines import Line, lines


@draws(Patchscope)
def patchscope_figure(result: Patchscope) -> Figure:
    """The probability of what is read, over the scales, against every control."""
    what = "what was asked about" if result.asked else "the likeliest token"
    title = f"Probability of {what}, vectors put in at {result.site}"
    words = [visible(word.strip()) for word in result.prompt]
    prompt = " ".join(f"[{word}]" if at in result.places else word for at, word in enumerate(words))
    caption = f"{result.verdict}. Target prompt, the place in brackets: {prompt}."
    n, code = len(result.prob), result.provenance.made_by
    names = ("the vectors", *result.controls)
    values = torch.cat([result.prob[None], result.control])
    low, high = bootstrap_interval(values.transpose(0, 1))
    return lines(
        [
            Line(
                name,
                values[at].mean(0).numpy(),
                low[at].numpy() if n > 1 else None,
                high[at].numpy() if n > 1 else None,
                is_control=at > 0,
            )
            for at, name in enumerate(names)
        ],
        title=title,
        along=Axis("scale", tuple(f"{scale:g}" for scale in result.scales)),
        unit="fraction",
        bounds=(0.0, 1.0),
        n=n,
        caption=caption,
        code=code,
    )


@draws(WrittenTokens)
def written_tokens_figure(result: WrittenTokens) -> Figure:
    """What the part that stands out most writes: the tokens that it raises and those that it lowers."""
    strongest = int((result.raised_by[:, 0].mean(-1) - result.null.max(1).values).argmax())
    frame = result.to_frame().filter(part=result.parts[strongest]).sort("effect", descending=True)
    null = result.null[strongest]
    rest = f" {len(result.parts) - 1} more in the table." if len(result.parts) > 1 else ""
    return bars(
        frame["effect"].to_numpy(),
        names=[visible(token) for token in frame["token"]],
        title=f"What {result.parts[strongest]} does to the logits of tokens, above their mean",
        unit="logits",
        low=frame["low"].to_numpy() if result.norm.shape[1] > 1 else None,
        high=frame["high"].to_numpy() if result.norm.shape[1] > 1 else None,
        n=result.norm.shape[1],
        keep=len(frame),
        null=Control(-float(null.max()), float(null.max()), "the most that a random direction moves"),
        caption=f"{result.verdict}.{rest}",
        code=result.provenance.made_by,
    )
