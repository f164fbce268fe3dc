"""Worked text whose end is an answer: a question, the steps that follow it, the answer, as exact ids in named steps.

1. Neighbouring texts are tokenised as one text, so that a chain has the tokens that its whole text has. A token that
   spans two steps belongs to the first.
2. Ids and `Tokens` are taken as they are: a conversation in its template, or what a model wrote, keeps its tokens.
3. The answer begins with a token of its own.
4. Two chains make a pair where every step has as many tokens in one as in the other, so that a position of one is the
   same place of the other. The wrong answer is that of the other chain.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

from digsite._core.errors import BadInput, explain
from digsite.models import Model, Tokens
from digsite.models.generate import Generation
from digsite.tasks.encoding import Encoded, Ids, clash
from digsite.tasks.examples import Example
from digsite.tasks.task import Task, assemble

Step = str | Tokens | Sequence[int]
_LISTED = 8


@dataclass(frozen=True)
class Chain:
    """A question, the worked text after it, and the answer at its end.

    Attributes:
        steps: Name -> ids, in the order of the text; a BOS belongs to the first.
        answer: Ids of the answer, which follows the last step.
        bos: Whether it starts with a BOS, and who put it there.
        tokenizer: Spells it.
    """

    steps: Mapping[str, Ids]
    answer: Ids
    bos: str = "as given"
    tokenizer: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if empty := [name for name, ids in (*self.steps.items(), ("answer", self.answer)) if not ids]:
            raise BadInput(explain(f"The step {empty[0]!r} of a chain has no token", do="leave it out or join it"))

    @classmethod
    def of(cls, model: Model, steps: Mapping[str, Step], answer: str | Sequence[int]) -> "Chain":
        """A chain from its parts.

        Args:
            model: Its tokenizer makes the tokens.
            steps: Name -> text, exactly as written (with its leading space); or ids; or one row of `Tokens`. The turns
                of a row that `model.chat` made become steps of their own, named by their roles.
            answer: What follows, as text or ids.

        Raises:
            BadInput: A step without a token, an answer that merges with the text before it, several rows in one step,
                or a model without a tokenizer that is given text.
        """
        entries = [*((name, step) for name, step in steps.items()), ("answer", answer)]
        parts: list[tuple[str, Ids]] = []
        bos = "as given"
        for textual, group in groupby(entries, key=lambda entry: isinstance(entry[1], str)):
            some = list(group)
            if textual:
                first = not parts
                parts += _together(model, some, first=first)
                text = "".join(str(part) for name, part in some if name != "answer")
                bos = model.tokens([text]).bos if first and text else bos
            else:
                for name, step in some:
                    bos = step.bos if isinstance(step, Tokens) and not parts else bos
                    parts += _as_given(name, step)
        names = [name for name, _ in parts]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise BadInput(explain(f"Two steps of a chain are called {twice[0]!r}", found=", ".join(names)))
        return cls(dict(parts[:-1]), parts[-1][1], bos, model.tokenizer)

    @classmethod
    def written(cls, generation: Generation, row: int, pattern: str, *, question: str = "question") -> "Chain":
        """A chain that a model wrote, with the very tokens that it wrote.

        Args:
            generation: Of `model.generate`.
            row: Which of its rows.
            pattern: A regular expression that is searched for in what was written. Its named groups are the steps, each
                from its own start to the start of the next; the group "answer" is the answer and comes last, as in
                r"(?P<work>.*?)The answer is(?P<answer> \\d+)". Newlines are matched by ".".
            question: Name of the prompt as a step, where it is not a conversation whose turns have names.

        Raises:
            BadInput: The text does not match, or the answer begins inside a token.
        """
        tokenizer, text = generation.tokens.tokenizer, generation.texts[row]
        found = re.search(pattern, text, re.DOTALL)
        groups = {name: found.span(name) for name in re.compile(pattern).groupindex} if found else {}
        starts = [start for start, _ in groups.values()]
        if not found or list(groups)[-1:] != ["answer"] or starts != sorted(starts) or min(starts, default=-1) < 0:
            raise BadInput(
                explain(
                    f"The pattern {pattern!r} does not give the steps of a chain",
                    found=f"{text!r}" if not found else f"groups {', '.join(groups) or 'none'}",
                    possible='named groups in the order of the text, the last of them "answer"',
                )
            )
        prompt = generation.prompt[row]
        new = generation.generated[row]
        begins = _begins(tokenizer, prompt.ids[0].tolist(), new)
        ends = [0, *starts[1:], groups["answer"][1]]
        cuts = [bisect_left(begins, end) for end in ends]
        if cuts[-2] < len(begins) and begins[cuts[-2]] != starts[-1]:
            raise BadInput(
                explain(
                    "The answer begins inside a token",
                    found=f"{tokenizer.decode(new[cuts[-2] - 1 : cuts[-2] + 1])!r} around {found['answer']!r}",
                    do="let the group take the leading space too: (?P<answer> ...)",
                )
            )
        own = [(name, tuple(new[a:b])) for name, (a, b) in zip(groups, pairwise(cuts), strict=True)]
        steps = dict([*_as_given(question, prompt), *own[:-1]])
        return cls(steps, own[-1][1], prompt.bos, tokenizer)

    @property
    def ids(self) -> Ids:
        """The text without the answer."""
        return tuple(token for ids in self.steps.values() for token in ids)

    @property
    def spans(self) -> dict[str, tuple[int, int]]:
        """Name -> positions (start, stop) of each step."""
        found, start = {}, 0
        for name, ids in self.steps.items():
            found[name] = (start, start + len(ids))
            start += len(ids)
        return found

    def spelled(self, ids: Ids) -> str:
        """Ids as text; the numbers where there is no tokenizer."""
        return " ".join(map(str, ids)) if self.tokenizer is None else self.tokenizer.decode(list(ids))


def chain_task(
    model: Model,
    clean: Sequence[Chain],
    corrupt: Sequence[Chain],
    *,
    name: str = "chains",
    question: str = "",
    metric: str = "logit_diff",
    normalise: str | None = None,
    drop_unusable: bool = False,
) -> Task:
    """Pairs of chains as a task, whose spans are the steps: every method that takes a task takes them.

    Args:
        model: The model.
        clean: Chains.
        corrupt: The same with another question and another answer, step by step as long.
        name: The task's name.
        question: What it asks, as a sentence.
        metric: The task's own metric.
        normalise: "length" scores an answer by its log-probability per token.
        drop_unusable: Leave out pairs that do not line up and count them in `dropped`, instead of refusing.

    Raises:
        BadInput: Pairs that do not line up; all of them are named.

    Caveats:
        The answer is teacher-forced: it is scored after the text as given, whatever the model would have written.
        `chain_patching(..., anew=True)` lets it write.
    """
    if len(clean) != len(corrupt) or not clean:
        raise BadInput(explain("Chains come in pairs", found=f"{len(clean)} clean and {len(corrupt)} corrupt"))
    faults = {i: fault for i, pair in enumerate(zip(clean, corrupt, strict=True)) for fault in _faults(*pair)}
    good = [pair for i, pair in enumerate(zip(clean, corrupt, strict=True)) if i not in faults]
    if faults and not (drop_unusable and good):
        listed = [f"pair {i}: {fault[0]} ({fault[1]})" for i, fault in list(faults.items())[:_LISTED]]
        more = [f"and {len(faults) - _LISTED} more pairs"] if len(faults) > _LISTED else []
        raise BadInput(
            explain(
                f"{len(faults)} of {len(clean)} pairs of chains cannot be used (pairs are counted from 0)",
                found="\n  ".join(["", *listed, *more]),
                do="change or remove these pairs, or pass drop_unusable=True to go on without them",
            )
        )
    task = assemble(
        model,
        [_encoded(*pair) for pair in good],
        name=name,
        question=question,
        metric=metric,
        normalise=normalise,
        dropped=Counter(reason for reason, _ in faults.values()),
        description=f"{len(good)} pairs of worked texts, each step a span",
        bos=good[0][0].bos,
    )
    task.clean.check(model.d_vocab, model.n_ctx)
    return task


def _together(model: Model, some: Sequence[tuple[str, Any]], *, first: bool) -> Iterator[tuple[str, Ids]]:
    """Texts that follow one another, tokenised as one; special tokens of the tokenizer only at the start of a chain."""
    tokenizer = model.tokenizer
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        raise BadInput(
            explain(
                "Texts need a tokenizer that reports the place of every token",
                found="none" if tokenizer is None else type(tokenizer).__name__,
                do="give the steps and the answer as ids",
            )
        )
    text = "".join(part for _, part in some)
    coded = tokenizer(text, add_special_tokens=first, return_offsets_mapping=True, verbose=False)
    ids, offsets = coded["input_ids"], coded["offset_mapping"]
    begins = [begin for begin, _ in offsets]
    ends = [0]
    for _, part in some:
        ends.append(ends[-1] + len(part))
    cuts = [0, *(bisect_left(begins, end) for end in ends[1:])]
    if some[-1][0] == "answer" and cuts[-2] and offsets[cuts[-2] - 1][1] > ends[-2]:
        raise BadInput(
            explain(
                "The answer merges with the text before it",
                found=f"{some[-1][1]!r} begins inside a token",
                do="write its leading space with the answer, or give ids",
            )
        )
    return ((name, tuple(ids[a:b])) for (name, _), (a, b) in zip(some, pairwise(cuts), strict=True))


def _as_given(name: str, step: Any) -> list[tuple[str, Ids]]:
    if not isinstance(step, Tokens):
        return [(name, tuple(int(token) for token in step))]
    if len(step) != 1:
        raise BadInput(explain(f"The step {name!r} is one row of tokens", found=f"{len(step)} rows", do="tokens[i]"))
    ids = step.ids[0][step.mask[0]].tolist()
    if not step.turns:
        return [(name, tuple(ids))]
    seen: Counter[str] = Counter()
    parts = []
    for turn in step.turns[0]:
        seen[turn.role] += 1
        again = f" {seen[turn.role]}" if seen[turn.role] > 1 else ""
        parts.append((turn.role + again, tuple(ids[turn.start : turn.stop])))
    return [(role, part) for role, part in parts if part]


def _begins(tokenizer: Any, before: list[int], new: list[int]) -> list[int]:
    """At which character of what was written each new token begins."""
    start = len(tokenizer.decode(before, skip_special_tokens=True))
    texts = (tokenizer.decode(before + new[:i], skip_special_tokens=True) for i in range(len(new)))
    return [len(text) - start for text in texts]


def _faults(clean: Chain, corrupt: Chain) -> Iterator[tuple[str, str]]:
    """Why two chains make no pair: a reason to count, and what was found."""
    if list(clean.steps) != list(corrupt.steps):
        yield "other steps", f"{', '.join(clean.steps)} and {', '.join(corrupt.steps)}"
        return
    lengths = {name: (len(ids), len(corrupt.steps[name])) for name, ids in clean.steps.items()}
    if uneven := [f"{name} {a} and {b}" for name, (a, b) in lengths.items() if a != b]:
        yield "a step has another number of tokens", "; ".join(uneven)
    elif clean.ids == corrupt.ids:
        yield "the same text", clean.spelled(clean.ids)[:60]
    elif refused := clash({clean.answer}, {corrupt.answer}):
        yield refused.reason, refused.found


def _encoded(clean: Chain, corrupt: Chain) -> Encoded:
    right, wrong = clean.spelled(clean.answer), corrupt.spelled(corrupt.answer)
    example = Example(clean.spelled(clean.ids), corrupt.spelled(corrupt.ids), (right,), (wrong,))
    return Encoded(example, clean.ids, corrupt.ids, {right: clean.answer}, {wrong: corrupt.answer}, clean.spans)
