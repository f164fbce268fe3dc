"""A text that does what a vector does: what to write where a model takes no vectors.

1. Neutral prompts x are parted: the text is searched on one half and judged on the other.
2. The target is the next-token distribution of the steered model after each x.
3. A prefix of n tokens goes before x (behind the BOS). From a random one, a position at a time: the gradient of the
   mean KL(steered after x ‖ plain after prefix + x) with respect to the embedding there ranks the vocabulary; the best
   tokens are tried exactly, and the best of those is taken where it lowers the KL.
4. Only a prefix counts that its own text is cut back into, token by token; else the text would not be the prefix.
5. Beside it on the held-out half: no prefix, random prefixes of the same length, the best single word of those given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.cost import count_backward, measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.models import Edit, Model, Tokens, made_by
from digsite.models.tokens import grid, pad_id

FEWEST = 4
"""Prompts below which nothing is searched."""
FOUND, NOTHING, WORD = "found", "no prefix", "best word"


@dataclass(frozen=True, kw_only=True)
class PromptSearch(Result):
    """A text, and how much of a vector's effect it has.

    Attributes:
        text: The text.
        ids: Its tokens.
        word: The best single word of those given, on the training half; empty where none were given.
        judged: "found", "no prefix", and "best word" where words were given.
        kl: KL(steered ‖ plain with the prefix) after each held-out prompt, in nats.
        null: The same, the mean over the prompts, for random prefixes of the same length.
        history: The KL on the training prompts, after each position that was searched.
    """

    SCHEMA: ClassVar[str] = "directions.prompt_search/1"

    text: str
    ids: Int[Tensor, " token"]
    word: str
    judged: tuple[str, ...]
    kl: Float[Tensor, "judged example"]
    null: Float[Tensor, " draw"]
    history: Float[Tensor, " update"]

    @property
    def shares(self) -> Float[Tensor, " judged"]:
        """1 - KL / KL without a prefix, of the means: 1 is all of the effect, 0 none, below 0 another."""
        mean = self.kl.mean(1)
        return 1 - mean / mean[self.judged.index(NOTHING)]

    def to_frame(self) -> pl.DataFrame:
        """One row for each prefix: held-out KL with its interval, and the share of the vector's effect."""
        rows = []
        for name, kl, share in zip(self.judged, self.kl, self.shares.tolist(), strict=True):
            low, high = bootstrap_interval(kl)
            text = {FOUND: self.text, WORD: self.word}.get(name, "")
            rows.append({"prefix": name, "text": text, "kl": float(kl.mean()), "low": float(low), "high": float(high)})
            rows[-1] |= {"share": share, "null_kl_min": float(self.null.min()), "n": len(kl)}
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = {row["prefix"]: row for row in self.to_frame().to_dicts()}
        ours, nothing = rows[FOUND], rows[NOTHING]
        failed = [] if ours["high"] < ours["null_kl_min"] else ["random prefixes"]
        failed += [f"the word {self.word!r}"] if WORD in rows and rows[WORD]["kl"] <= ours["kl"] else []
        beside = f", the word {self.word!r} {rows[WORD]['share']:.0%}" if WORD in rows else ""
        chance = 1 - ours["null_kl_min"] / nothing["kl"]
        lost = f", so the search is no better than {' and '.join(failed)}" if failed else ""
        return (
            f"{self.text!r} has {ours['share']:.0%} of the vector's effect: KL to the steered model {ours['kl']:.2f} "
            f"nats (95 % {ours['low']:.2f} to {ours['high']:.2f}) instead of {nothing['kl']:.2f}; the best of "
            f"{len(self.null)} random prefixes {chance:.0%}{beside}{lost}; n = {ours['n']} held-out prompts"
        )


@method
def prompt_for(
    model: Model,
    edits: Sequence[Edit],
    prompts: Tokens,
    *,
    length: int = 3,
    words: Sequence[str] = (),
    candidates: int = 32,
    sweeps: int = 3,
    draws: int = 10,
    seed: int = 0,
) -> PromptSearch:
    """Search a short text that, put before prompts, does to the next token what steering does.

    Args:
        model: The model.
        edits: The steering, such as `[direction.add(4, at=-1)]`; positions are those of the prompts without a prefix.
        prompts: Neutral prompts; a BOS stays in front of the text.
        length: Tokens of the text.
        words: Single words to compare with, such as those that the vector was made from.
        candidates: Tokens that are tried exactly at a position.
        sweeps: How often every position is searched; the search ends where a sweep changes nothing.
        draws: Random prefixes.
        seed: Of the halves, the start and the random prefixes.

    Raises:
        BadInput: Fewer than 4 prompts, a length below 1, no tokenizer, a word that is no text, or steering that changes
            nothing.

    Units: nats.

    Source: the search is greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043, section 2.2), one position at a
    time, with the KL to a steered model as its objective.

    Caveats:
        The passes are up to sweeps × length × (1 + candidates) × training prompts rows. A search can end in a local
        minimum: the result says what this text does, not that none does more.
    """
    if len(prompts) < FEWEST or length < 1 or model.tokenizer is None:
        asked = f"The search needs {FEWEST} prompts or more, a length of 1 or more, and a tokenizer"
        raise BadInput(explain(asked, found=f"{len(prompts)} prompts, length {length}"))
    with measure() as cost:
        search = _Search(model, edits, prompts, seed)
        ids, history = search.run(length, candidates, sweeps)
        # 5. What stands beside.
        spelled = [search.ids_of(word) for word in words]
        by_word = [float(search.kl([one], search.train)[0].mean()) for one in spelled]
        best = None if not words else int(np.argmin(by_word))
        prefixes = [ids, (), *([] if best is None else [spelled[best]])]
        kl = torch.cat([search.kl([one], search.test) for one in prefixes])
        null = torch.stack([search.kl([search.random(length)], search.test)[0].mean() for _ in range(draws)])
    if float(kl[1].mean()) < 1e-6:
        raise BadInput(explain("The steering changes nothing after these prompts", do="use a larger coefficient"))
    call = f"digsite.directions.steering.prompt_for(model, edits, prompts, length={length}, seed={seed})"
    return PromptSearch(
        text=model.tokenizer.decode(list(ids)),
        ids=torch.tensor(ids),
        word="" if best is None else words[best],
        judged=(FOUND, NOTHING, *([] if best is None else [WORD])),
        kl=kl,
        null=null,
        history=torch.tensor(history),
        provenance=made_by(call, model, prompts.fingerprint, seed=seed),
        cost=cost,
    )


class _Search:
    """The prompts as lists of ids, the steered model's answers to them, and the random choices."""

    def __init__(self, model: Model, edits: Sequence[Edit], prompts: Tokens, seed: int):
        # 1. Two halves.
        self.model, self.random_choice = model, np.random.default_rng(seed)
        order = self.random_choice.permutation(len(prompts)).tolist()
        half = len(prompts) // 2
        self.test, self.train = order[:half], order[half:]
        # 2. The target.
        steered = model.run(prompts.padded_left(), edits=edits, logits=1).logits[:, -1]
        self.target = steered.log_softmax(-1)
        bos = getattr(model.tokenizer, "bos_token_id", None)
        rows = [row[real].tolist() for row, real in zip(prompts.ids, prompts.mask, strict=True)]
        self.front = [row[: int(row[0] == bos)] for row in rows]
        self.rest = [row[len(front) :] for row, front in zip(rows, self.front, strict=True)]
        special = set(getattr(model.tokenizer, "all_special_ids", []))
        count = min(model.d_vocab, len(model.tokenizer))
        self.usable = torch.tensor([token for token in range(count) if token not in special])

    def ids_of(self, word: str) -> tuple[int, ...]:
        """A text as the ids of a prefix."""
        return tuple(self.model.tokens([word], special=False).ids[0].tolist())

    def holds(self, ids: Sequence[int]) -> bool:
        """4. Whether the text of these tokens is cut back into them."""
        text = self.model.tokenizer.decode(list(ids))
        return bool(text.strip()) and self.ids_of(text) == tuple(ids)

    def random(self, length: int) -> tuple[int, ...]:
        """A random prefix that its text is cut back into."""
        for _ in range(1000):
            picked = self.usable[torch.from_numpy(self.random_choice.integers(len(self.usable), size=length))]
            if self.holds(picked.tolist()):
                return tuple(picked.tolist())
        raise BadInput(explain(f"No random text of {length} tokens is cut back into its tokens", do="a shorter length"))

    def rows(self, prefixes: Sequence[Sequence[int]], which: Sequence[int]) -> Tokens:
        """Every prefix before every prompt."""
        made = [[*self.front[at], *prefix, *self.rest[at]] for prefix in prefixes for at in which]
        tokenizer = self.model.tokenizer
        return grid(made, pad=pad_id(tokenizer), padding="left", tokenizer=tokenizer)

    def kl(self, prefixes: Sequence[Sequence[int]], which: Sequence[int]) -> Float[Tensor, "choice example"]:
        """KL(steered ‖ plain with the prefix) after each prompt."""
        run = self.model.run(self.rows(prefixes, which), logits=1, batch_size=256)
        return self._divergence(run.logits[:, -1], which).detach().cpu().unflatten(0, (len(prefixes), len(which)))

    def _divergence(self, logits: Tensor, which: Sequence[int]) -> Float[Tensor, " example"]:
        target = self.target[list(which)].repeat(len(logits) // len(which), 1)
        return (target.exp() * (target - logits.log_softmax(-1))).sum(-1)

    def ranked(self, ids: Sequence[int], place: int) -> Int[Tensor, " token"]:
        """3. The usable tokens, those first that the gradient at a place likes best."""
        rows = self.rows([ids], self.train)
        run = self.model.run(rows, read=["embed"], logits=1, grad=True)
        loss = self._divergence(run.logits[:, -1], self.train).mean()
        (slope,) = torch.autograd.grad(loss, [run["embed"]])
        count_backward(len(rows))
        columns = [start + len(self.front[at]) + place for start, at in zip(rows.starts, self.train, strict=True)]
        downhill = -slope[torch.arange(len(rows)), columns].sum(0)
        liking = self.model.weights.W_E.detach()[self.usable] @ downhill
        return self.usable[liking.argsort(descending=True).cpu()]

    def run(self, length: int, candidates: int, sweeps: int) -> tuple[tuple[int, ...], list[float]]:
        """3. and 4. The prefix, and the KL after each position."""
        ids = self.random(length)
        now = float(self.kl([ids], self.train)[0].mean())
        history, last_change = [now], -1
        for step in track(range(sweeps * length), "searching a prompt"):
            if step - last_change > length:
                break
            place = step % length
            tried = [(*ids[:place], int(token), *ids[place + 1 :]) for token in self.ranked(ids, place)]
            some: list[tuple[int, ...]] = []
            for one in tried:
                if len(some) == candidates:
                    break
                if self.holds(one):
                    some.append(one)
            found = self.kl(some, self.train).mean(1)
            if len(some) and float(found.min()) < now - 1e-6:
                ids, now, last_change = some[int(found.argmin())], float(found.min()), step
            history.append(now)
        return ids, history
