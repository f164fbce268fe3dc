"""Steering vectors from contrasts: one pair of prompts, pairs of answers, two sets of prompts.

1. Both sides are read at one site: at the same positions, at the answer's token, at the chosen positions.
2. The vector is the difference of their means.
3. How long activations are there is measured, on neutral text where it is given; a row's first token is left out,
   whose activations are of another size.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

import digsite.models as models
from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite._core.provenance import Provenance
from digsite.directions.direction import Direction, Scale, concrete
from digsite.directions.measuring import BATCH, activations, scale_along
from digsite.directions.probes import mean_difference
from digsite.directions.steering.target import token_ids
from digsite.models import Edit, Model, Tokens, made_by
from digsite.models.measure import TokenSource
from digsite.models.tokens import Positions
from digsite.sites import Site
from digsite.tasks import Task

FROM_LAST = slice(-1, None)
"""The last token of the prompt, which predicts the first new one, and every token that is written after it."""


class AnswerPair(NamedTuple):
    """A question with two answers, of which one matches the behaviour."""

    prompt: str
    matching: str
    other: str


@dataclass(frozen=True, eq=False, kw_only=True)
class ActAdd:
    """The difference of two prompts, position by position; it is added at the front of a prompt.

    Attributes:
        site: Where.
        vectors: One for each position, from the front.
        plus: The tokens of the one prompt, padding included.
        minus: Those of the other.
        scales: How large activations are along each; None where the two prompts hold the same.
        provenance: What it was found on.
    """

    site: Site
    vectors: Float[Tensor, "pos width"]
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    scales: tuple[Scale | None, ...]
    provenance: Provenance

    def add(self, coefficient: float, unit: str = "raw") -> Edit:
        """x + c v at each of the front positions; a prompt that is shorter is refused when it is run.

        Args:
            coefficient: How much.
            unit: "raw" adds the vectors as they are; with "norm", the longest becomes as long as the mean activation.
        """
        if unit not in ("raw", "norm"):
            raise BadInput(explain(f"{unit!r} is no unit of an ActAdd vector", possible=("raw", "norm"), near=unit))
        norm = next(scale.norm for scale in self.scales if scale is not None)
        size = 1.0 if unit == "raw" else norm / float(self.vectors.norm(dim=-1).max())
        return models.add(self.site, self.vectors * (coefficient * size), at=list(range(len(self.vectors))))

    def direction(self, position: int = -1) -> Direction:
        """The vector of one position, as a direction.

        Args:
            position: From the front, or negative from the end.
        """
        name = f"{self.plus[position].strip()} rather than {self.minus[position].strip()}"
        return Direction(
            site=self.site,
            vector=self.vectors[position],
            scale=self.scales[position],
            name=name,
            how="ActAdd",
            provenance=self.provenance,
        )


def actadd(
    model: Model, plus: str, minus: str, site: str | Site, *, pad: str | None = None, text: TokenSource | None = None
) -> ActAdd:
    """A steering vector from one pair of prompts: what the first has more than the second, position by position.

    Args:
        model: The model.
        plus: The prompt that is added, such as "Love".
        minus: The prompt that is taken off, such as "Hate".
        site: A residual stream, such as layers.6.resid_pre.
        pad: A token (such as a space) that is put at the end of the shorter prompt; without it they must be as long.
        text: What the length of activations is measured on; the two prompts unless given.

    Raises:
        ShapeMismatch: The prompts have different lengths, and no pad is named.
        BadInput: The pad is not one token.

    Units: of the site; the coefficient is raw unless told otherwise.

    Source: Turner et al. 2023, "Steering Language Models With Activation Engineering", arXiv 2308.10248, section 3.

    Caveats: The BOS is a position like any other: its vector is zero, since both prompts have it.
    """
    site = concrete(site)
    rows = [model.tokens([text_]).ids[0].tolist() for text_ in (plus, minus)]
    if len(rows[0]) != len(rows[1]):
        filler = None if pad is None else token_ids(model, [pad])[0]
        if filler is None:
            found = f"{plus!r} has {len(rows[0])} tokens, {minus!r} has {len(rows[1])}"
            asked = "The two prompts are set against each other position by position"
            raise ShapeMismatch(explain(asked, found=found, do='name what the shorter is padded with: pad=" "'))
        rows = [list(row) for row in zip(*zip_longest(*rows, fillvalue=filler), strict=True)]
    tokens = model.tokens(rows)
    both = model.run(tokens, read=[site], logits=None, to="cpu")[site].float()
    vectors = both[0] - both[1]
    if not bool(vectors.any()):
        raise BadInput(explain("The two prompts do not differ", found=f"{plus!r} and {minus!r}"))
    call = f"digsite.directions.steering.actadd(model, {plus!r}, {minus!r}, {str(site)!r}, pad={pad!r})"
    x = activations(model, text or tokens, [site])[0]
    scales = tuple(scale_along(vector, x) if bool(vector.any()) else None for vector in vectors)
    made = made_by(call, model, tokens.fingerprint)
    strings = [tuple(row) for row in tokens.strings]
    return ActAdd(site=site, vectors=vectors, plus=strings[0], minus=strings[1], scales=scales, provenance=made)


def caa(
    model: Model,
    pairs: Sequence[AnswerPair] | Task,
    site: str | Site,
    *,
    text: TokenSource | None = None,
    name: str = "",
    confounded: bool = False,
) -> Direction:
    """A steering vector from answers: what the token of the matching answer holds more than that of the other.

    Pairs are grouped by their two answer tokens, and each group counts equally. Where "A" matches in one group and "B"
    in the other, what belongs to the letters cancels.

    Args:
        model: The model.
        pairs: Questions with a matching and another answer, each of one token; or a task with answers of one token,
            whose first right answer matches and whose first wrong one does not.
        site: A residual stream.
        text: What the scale is measured on; the prompts of the pairs unless given.
        name: What a high reading means.
        confounded: Take pairs whose matching answer is always the same token: the vector is then the token's too.

    Returns:
        The direction. Add it at `FROM_LAST`: the last token of a prompt predicts the first one of the answer.

    Raises:
        BadInput: An answer is not one token after its prompt, or the matching answer is always the same token.

    Source: Rimsky et al. 2023, arXiv 2312.06681, section 3; theirs is the plain mean over pairs, which is the same
    where both letters match equally often.
    """
    site = concrete(site)
    matching, other = _answered(model, pairs)
    kinds: dict[tuple[int, int], list[int]] = {}
    for row in range(len(matching)):
        kinds.setdefault((int(_last(matching)[row]), int(_last(other)[row])), []).append(row)
    if len({kind[0] for kind in kinds}) == 1 and not confounded:
        token = matching.strings[0][-1]
        asked = "The matching answer is always the same token, so the vector would be the token's and the behaviour's"
        do = "let each answer match in half of the pairs, or pass confounded=True"
        raise BadInput(explain(asked, found=f"{token!r} in {len(matching)} pairs", do=do))
    with_, without = (_at_positions(model, side, site, -1) for side in (matching, other))
    apart = with_ - without
    vector = torch.stack([apart[rows].mean(0) for rows in kinds.values()]).mean(0)
    half = torch.stack([(with_ + without)[rows].mean(0) for rows in kinds.values()]).mean(0) / 2
    call = f"digsite.directions.steering.caa(model, pairs, {str(site)!r}, confounded={confounded})"
    made = made_by(call, model, matching.fingerprint)
    found = Direction(
        site=site,
        vector=vector,
        bias=-float(half @ vector),
        name=name,
        how=f"CAA over {len(matching)} pairs",
        provenance=made,
    )
    return with_scale(found, model, text, [matching, other])


def difference(
    model: Model,
    plus: Tokens,
    minus: Tokens,
    site: str | Site,
    *,
    at: Positions | str = -1,
    minus_at: Positions = None,
    text: TokenSource | None = None,
    name: str = "",
) -> Direction:
    """A steering vector from two sets of prompts: the difference of their means; 0 is the boundary halfway.

    Args:
        model: The model.
        plus: Prompts that have it.
        minus: Prompts that do not; not as many as of the others, nor as long.
        site: Where.
        at: The positions that are read, of which each prompt has its mean; "response" for the assistant's last turn
            of conversations (`model.chat`).
        minus_at: The positions of the others, where they differ: two tensors of positions of each row.
        text: What the scale is measured on; the prompts themselves unless given.
        name: What a high reading means.

    Raises:
        BadInput: A position that a prompt does not have, or no turn of an assistant.

    Source: difference of means, Marks and Tegmark 2023, arXiv 2310.06824; over response tokens, Chen et al. 2025,
    "Persona Vectors", arXiv 2507.21509, section 2.
    """
    site = concrete(site)
    other = at if minus_at is None else minus_at
    x = [_at_positions(model, side, site, where) for side, where in ((plus, at), (minus, other))]
    labels = torch.arange(len(plus) + len(minus)) < len(plus)
    fitted = mean_difference(torch.cat(x), labels)
    call = f"digsite.directions.steering.difference(model, plus, minus, {str(site)!r}, at={at!r})"
    found = Direction(
        site=site,
        vector=fitted.vector,
        bias=fitted.bias,
        name=name,
        how=f"mean difference of {len(plus)} and {len(minus)} prompts",
        provenance=made_by(call, model, f"{plus.fingerprint} {minus.fingerprint}"),
    )
    return with_scale(found, model, text, [plus, minus])


def with_scale(found: Direction, model: Model, text: TokenSource | None, own: Sequence[TokenSource]) -> Direction:
    """A direction with the scale that neutral text gives it, or else the prompts it was found on; it says which."""
    sources = own if text is None else [text]
    x = torch.cat([activations(model, source, [found.site])[0] for source in sources])
    said = "its own prompts" if text is None else f"text {text.fingerprint}"
    how = f"{found.how}, scale of {said}"
    return dataclasses.replace(found, scale=scale_along(found.vector, x), how=how)


def _at_positions(model: Model, tokens: Tokens, site: Site, at: Positions | str) -> Float[Tensor, "prompt width"]:
    """1. What each prompt has at some positions, their mean."""
    x = model.run(tokens, read=[site], logits=None, batch_size=BATCH, to="cpu")[site].double()
    if x.ndim != 3:
        raise BadInput(explain(f"{site} holds several heads", do=f"name one, such as {site}[0]"))
    if isinstance(at, str):
        if at != "response":
            raise BadInput(explain(f"at={at!r} names no positions", possible=("response", "positions"), near=at))
        rows, columns = _response(tokens)
    else:
        rows, columns, _ = tokens.places(at)
    counts = rows.bincount(minlength=len(tokens))
    if not bool(counts.all()):
        row = int((counts == 0).nonzero()[0])
        raise BadInput(explain(f"Row {row} has no position to read", found=f"at={at}", do="choose other positions"))
    total = torch.zeros(len(tokens), x.shape[-1], dtype=x.dtype).index_add_(0, rows, x[rows, columns])
    return total / counts[:, None]


def _response(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """The cells of each conversation's last turn of the assistant."""
    rows, columns = [], []
    for row, turns in enumerate(tokens.turns or [()] * len(tokens)):
        spoken = [turn for turn in turns if turn.role == "assistant"]
        if not spoken:
            do = "make the tokens with model.chat(...), or name positions"
            raise BadInput(explain(f"Row {row} has no turn of an assistant", do=do))
        places = range(spoken[-1].start, spoken[-1].stop)
        rows += [row] * len(places)
        columns += [tokens.starts[row] + place for place in places]
    return torch.tensor(rows), torch.tensor(columns)


def _answered(model: Model, pairs: Sequence[AnswerPair] | Task) -> tuple[Tokens, Tokens]:
    """Every prompt with its matching answer, and with the other."""
    if isinstance(pairs, Task):
        if pairs.keep > 1 or not bool(pairs.wrong.real.any(-1).all()):
            asked = (
                f"CAA reads the token of the answer, and {pairs.name} is not a task of two answers of one token each"
            )
            raise BadInput(explain(asked, found=f"answers of up to {pairs.keep} tokens"))
        prompts = [ids[mask].tolist() for ids, mask in zip(pairs.clean.ids, pairs.clean.mask, strict=True)]
        answers = [side.ids[:, 0, 0].tolist() for side in (pairs.right, pairs.wrong)]
    else:
        if not pairs:
            raise BadInput(explain("CAA needs one pair or more"))
        prompts, answers = [], ([], [])
        for pair in pairs:
            start, *whole = (model.tokens([pair.prompt + end]).ids[0].tolist() for end in ("", pair[1], pair[2]))
            if any(row[:-1] != start for row in whole):
                found = f"{pair.matching!r} and {pair.other!r} after {pair.prompt!r}"
                raise BadInput(explain("Each answer is one token after its prompt", found=found))
            prompts.append(start)
            for side, row in zip(answers, whole, strict=True):
                side.append(row[-1])
    made = [model.tokens([[*start, end] for start, end in zip(prompts, side, strict=True)]) for side in answers]
    return made[0], made[1]


def _last(tokens: Tokens) -> Tensor:
    places = tokens.places(-1)
    return tokens.ids[places.rows, places.columns]
