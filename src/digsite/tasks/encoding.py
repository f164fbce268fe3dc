"""From text to exact ids: which examples a tokenizer can serve, and why it cannot serve the others.

1. Prompt and answer are tokenised together; the result must start with the prompt's own tokens.
2. Clean and corrupt must have as many tokens as each other, a word that both share must lie at the same positions (else
   a patch at a position would compare different words), and the answers must be the same tokens after either.
3. Character ranges become ranges of positions through the tokenizer's own offsets.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from digsite._core.errors import BadInput, Unsupported, explain
from digsite.tasks.examples import Example

Ids = tuple[int, ...]
Offsets = Sequence[tuple[int, int]]


class Refused(NamedTuple):
    """Why an example cannot be used: a reason to count, and what was found in this example."""

    reason: str
    found: str


@dataclass(frozen=True)
class Encoded:
    """An example as a model gets it.

    Attributes:
        example: The text.
        clean: Ids of the clean prompt, with the tokenizer's own special tokens.
        corrupt: Ids of the corrupt prompt, as many; None where there is none.
        right: Each right answer and its ids; answers that are the same tokens are one.
        wrong: Each wrong answer and its ids.
        spans: Name -> positions (start, stop) in the clean prompt.
        spared: For each answer left out of `right` and `wrong`, a reason to count.
    """

    example: Example
    clean: Ids
    corrupt: Ids | None
    right: dict[str, Ids]
    wrong: dict[str, Ids]
    spans: dict[str, tuple[int, int]]
    spared: tuple[str, ...] = ()

    @property
    def answer_width(self) -> int:
        """Tokens of the longest answer."""
        return max(len(answer) for answer in (*self.right.values(), *self.wrong.values()))


class _Book:
    """Every text tokenised once, in two calls."""

    def __init__(self, tokenizer: Any, examples: Sequence[Example]):
        if not tokenizer.is_fast:
            raise Unsupported(
                explain(
                    "Tasks need the place of every token in its text, which this tokenizer does not report",
                    found=type(tokenizer).__name__,
                    do="load the model with a tokenizer that has a tokenizer.json",
                )
            )
        pairs = [(prompt, e) for e in examples for prompt in (e.clean, e.corrupt) if prompt is not None]
        prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
        wholes = list(dict.fromkeys(prompt + answer for prompt, e in pairs for answer in (*e.right, *e.wrong)))
        coded = tokenizer(prompts, return_offsets_mapping=True, verbose=False)
        self.prompts: dict[str, Ids] = dict(zip(prompts, map(tuple, coded["input_ids"]), strict=True))
        self.offsets: dict[str, Offsets] = dict(zip(prompts, coded["offset_mapping"], strict=True))
        coded = tokenizer(wholes, verbose=False)["input_ids"]
        self.wholes: dict[str, Ids] = dict(zip(wholes, map(tuple, coded), strict=True))


def encode(model: Any, examples: Iterable[Example], *, spare: bool = False) -> list[Encoded | Refused]:
    """What the model would get for each example, or why it cannot be used.

    Args:
        model: Gives the tokenizer and the longest context.
        examples: Prompts and answers as text.
        spare: Leave out an answer that cannot be used while its side has others. Such an answer never follows the
            prompt as tokens of its own (GPT-2 writes "1700" as one token, so "00" never follows " 17"), and a model
            gives it next to no probability.

    Returns:
        One entry for each example, in order.

    Raises:
        BadInput: The model has no tokenizer.
        Unsupported: The tokenizer does not report where in the text a token lies.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise BadInput(explain("This model has no tokenizer", do="load one beside the model; tasks are made of text"))
    examples = list(examples)
    if not examples:
        return []
    book = _Book(tokenizer, examples)
    # Some tokenizers call one token unk, BOS and padding at once; then its presence says nothing.
    others = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    unknown = None if tokenizer.unk_token_id in others else tokenizer.unk_token_id
    return [_encode_one(example, book, unknown, model.n_ctx, spare=spare) for example in examples]


def _encode_one(
    example: Example, book: _Book, unknown: int | None, n_ctx: int | None, *, spare: bool
) -> Encoded | Refused:
    clean = book.prompts[example.clean]
    corrupt = None if example.corrupt is None else book.prompts[example.corrupt]
    if fault := _pair_fault(example, book, unknown):
        return fault
    sides: list[dict[str, Ids]] = []
    spared: list[str] = []
    for texts in (example.right, example.wrong):
        coded = {text: _answer_ids(example, text, book, unknown) for text in texts}
        bad = [outcome for outcome in coded.values() if isinstance(outcome, Refused)]
        if bad and not (spare and len(bad) < len(coded)):
            return bad[0]
        spared += [f"one of several answers left out: {outcome.reason}" for outcome in bad]
        first = {ids: text for text, ids in reversed(coded.items()) if not isinstance(ids, Refused)}
        sides.append({text: ids for ids, text in reversed(first.items())})
    right, wrong = sides
    if both := clash({*right.values()}, {*wrong.values()}):
        return both
    longest = len(clean) + max(map(len, (*right.values(), *wrong.values()))) - 1
    if n_ctx is not None and longest > n_ctx:
        return Refused("more tokens than the context", f"{longest} tokens, the model takes {n_ctx}")
    spans: dict[str, tuple[int, int]] = {}
    for name, (start, end) in example.spans.items():
        spans[name] = _positions(book.offsets[example.clean], start, end)
        if spans[name] == (0, 0):
            return Refused("a span covers no token", f"span {name} ({example.part(name)!r})")
    return Encoded(example, clean, corrupt, right, wrong, spans, tuple(spared))


def _pair_fault(example: Example, book: _Book, unknown: int | None) -> Refused | None:
    """Why the two prompts cannot be compared position by position, if they cannot."""
    clean = book.prompts[example.clean]
    corrupt = None if example.corrupt is None else book.prompts[example.corrupt]
    for which, ids in (("clean", clean), ("corrupt", corrupt)):
        if ids is not None and unknown in ids:
            return Refused("a word of the prompt is not in the vocabulary", f"the {which} prompt holds the unk token")
    if corrupt is None:
        return None
    if len(clean) != len(corrupt):
        found = f"clean has {len(clean)} tokens, corrupt has {len(corrupt)}"
        return Refused("clean and corrupt differ in token count", found)
    if clean == corrupt:
        return Refused("clean and corrupt are the same tokens", repr(example.clean))
    if moved := _moved_word(example, book):
        return Refused("a word lies at other positions in the corrupt prompt", moved)
    return None


def _positions(offsets: Offsets, start: int, end: int) -> tuple[int, int]:
    """The positions (start, stop) of the tokens that hold any of these characters; (0, 0) if none does."""
    inside = [i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > start]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _moved_word(example: Example, book: _Book) -> str:
    """A word that clean and corrupt share in the same place of the sentence, but at different positions."""
    if example.corrupt is None:
        return ""
    words = [list(re.finditer(r"\S+", prompt)) for prompt in (example.clean, example.corrupt)]
    if len(words[0]) != len(words[1]):
        return ""  # the sentences are built differently, and which word answers to which is not ours to guess
    for here, there in zip(*words, strict=True):
        if here.group() == there.group():
            clean = _positions(book.offsets[example.clean], *here.span())
            corrupt = _positions(book.offsets[example.corrupt], *there.span())
            if clean != corrupt:
                return f"{here.group()!r} at {clean[0]} in clean, at {corrupt[0]} in corrupt"
    return ""


def _answer_ids(example: Example, answer: str, book: _Book, unknown: int | None) -> Ids | Refused:
    found: list[Ids] = []
    for prompt in (example.clean, example.corrupt):
        if prompt is None:
            continue
        alone, whole = book.prompts[prompt], book.wholes[prompt + answer]
        if whole[: len(alone)] != alone or len(whole) == len(alone):
            return Refused(
                "the answer merges with the end of the prompt",
                f"{answer!r} after {prompt[-12:]!r} is not tokenised as the prompt and then the answer",
            )
        if unknown in whole[len(alone) :]:
            return Refused("an answer is not in the vocabulary", f"{answer!r} holds the unk token")
        found.append(whole[len(alone) :])
    if found[0] != found[-1]:
        return Refused("an answer has other tokens after the corrupt prompt", repr(answer))
    return found[0]


def clash(right: set[Ids], wrong: set[Ids]) -> Refused | None:
    """Why some right and wrong answers cannot be told apart, if they cannot."""
    if both := right & wrong:
        return Refused("a right and a wrong answer are the same tokens", f"ids {list(both.pop())}")
    known = right | wrong
    for ids in known:
        for stop in range(1, len(ids)):
            # The shorter answer would contain the probability of the longer one, whatever the model knows.
            if ids[:stop] in known:
                return Refused("one answer begins another", f"ids {list(ids[:stop])} begin {list(ids)}")
    return None
