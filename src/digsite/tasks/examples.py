"""One prompt pair as text, before any tokenizer has seen it.

Generators write examples, `build` turns those that a tokenizer can serve into a `Task`.
"""

from dataclasses import dataclass, field

from digsite._core.errors import BadInput, explain


@dataclass(frozen=True)
class Example:
    """A prompt whose next word is known, beside a minimally different prompt whose next word is another.

    Args:
        clean: The prompt, up to and without the answer.
        corrupt: The same prompt with one fact changed; None where the question has no such pair.
        right: The answers to the clean prompt. An answer that begins a new word begins with a space (" Mary").
        wrong: The answers that the clean prompt rules out; usually right for the corrupt prompt.
        spans: Name of a part of the clean prompt -> its character range (start, end).
        group: What the example shares with others (template, pair of nouns), for balanced resampling.
    """

    clean: str
    corrupt: str | None
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    group: str = ""

    def __post_init__(self) -> None:
        faults: list[str] = []
        if not self.clean.strip():
            faults.append("the clean prompt is empty")
        if self.corrupt is not None and not self.corrupt.strip():
            faults.append("the corrupt prompt is empty")
        if not self.right or not all(self.right):
            faults.append("there is no right answer, or an empty one")
        if not all(self.wrong):
            faults.append("a wrong answer is empty")
        if both := set(self.right) & set(self.wrong):
            faults.append(f"{', '.join(map(repr, sorted(both)))} is right and wrong at once")
        for name, (start, end) in self.spans.items():
            if not 0 <= start < end <= len(self.clean):
                faults.append(f"span {name} is {start}..{end} in a prompt of {len(self.clean)} characters")
        if faults:
            raise BadInput(
                explain(
                    f"An example cannot be used: {self.clean!r}",
                    found="; ".join(faults),
                    do="Give a prompt, at least one right answer, and spans inside the clean prompt",
                )
            )

    def part(self, name: str) -> str:
        """The words of the clean prompt that a span covers."""
        start, end = self.spans[name]
        return self.clean[start:end]
