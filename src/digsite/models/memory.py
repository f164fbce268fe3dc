"""Memory plans: what a run will hold at its worst moment, and the smallest set of changes that makes it fit."""

import io
import re
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group
from rich.table import Table

from digsite._core.errors import BadInput, explain

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """One kind of memory: what it is, its bytes, and where they come from."""

    what: str
    bytes: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class MemoryChange:
    """One thing that could be done otherwise.

    Attributes:
        call: How it is asked for.
        saves: Bytes that it saves by itself.
        chosen: Whether it belongs to the smallest set of changes that fits.
        cost: What one gives for it.
    """

    call: str
    saves: int
    chosen: bool
    cost: str


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a run will hold in memory at its worst moment.

    Attributes:
        question: The run that it is about.
        rows: Every kind of memory; the sum is the answer.
        budget: What there is, in bytes, or None.
        changes: With a budget: what could be done otherwise, from the mildest on.
        then: Bytes after the chosen changes, where there are any.

    Units:
        Bytes; in the table 1 GB is 10^9.

    Caveats:
        Counted are the bytes of tensors. On a CPU the C library keeps freed blocks for later: in the measured cases a
        process took up to half as much again, and within 10 % of the plan with MALLOC_MMAP_THRESHOLD_=65536 in its
        environment. On a GPU PyTorch keeps blocks too; kernels need some megabytes of their own.
    """

    question: str
    rows: tuple[MemoryRow, ...]
    budget: int | None = None
    changes: tuple[MemoryChange, ...] = ()
    then: int | None = None

    @property
    def total(self) -> int:
        """The most at one moment, in bytes."""
        return sum(row.bytes for row in self.rows)

    @property
    def recorded(self) -> int:
        """Bytes of the sites that are recorded; what shares its memory with another site counts once."""
        return sum(row.bytes for row in self.rows if row.what.startswith("site "))

    @property
    def fits(self) -> bool | None:
        """Whether the budget suffices as things are; None without a budget."""
        return None if self.budget is None else self.total <= self.budget

    @property
    def advice(self) -> list[str]:
        """The smallest set of changes that fits, the mildest of that size; empty where none is needed or none helps."""
        return [change.call for change in self.changes if change.chosen]

    @property
    def verdict(self) -> str:
        """The answer in one line."""
        if self.budget is None:
            return f"{self.question}: {size_text(self.total)}"
        if self.fits:
            return f"{self.question}: fits, {size_text(self.total)} of {size_text(self.budget)}"
        needs = f"{self.question}: does not fit, {size_text(self.total)} of {size_text(self.budget)}."
        if self.then is None:
            return f"{needs} No set of these changes is enough"
        return f"{needs} Fits with {' and '.join(self.advice)}: {size_text(self.then)}"

    def table(self) -> Group:
        """The rows, the verdict, and the changes with what each saves by itself."""
        rows = Table("memory", "", "where it comes from", box=box.SIMPLE)
        rows.columns[1].justify = "right"
        for row in self.rows:
            rows.add_row(row.what, size_text(row.bytes), row.note)
        if not self.changes:
            return Group(self.verdict, rows)
        changes = Table("", "change", "saves alone", "what it costs", box=box.SIMPLE)
        changes.columns[2].justify = "right"
        for change in self.changes:
            changes.add_row("→" if change.chosen else "", change.call, size_text(change.saves), change.cost)
        return Group(self.verdict, rows, changes)

    def __rich__(self) -> Group:
        return self.table()

    def __repr__(self) -> str:
        console = Console(file=io.StringIO(), width=80)
        console.print(self.table())
        return console.file.getvalue().rstrip()  # pyright: ignore[reportAttributeAccessIssue]


def parse_bytes(budget: int | str) -> int:
    """Bytes of "6GB", "800 MB", "5.5GiB" or a number.

    Raises:
        BadInput: It is not an amount of memory.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?B)?\s*", str(budget).upper())
    unit = _UNITS.get(found[2] or "B") if found else None
    if found is None or unit is None:
        raise BadInput(explain(f"{budget!r} is not an amount of memory", possible='"6GB", "5.5GiB", "800MB", or bytes'))
    return int(float(found[1]) * unit)


def size_text(count: int) -> str:
    """Bytes for people: "1.23 GB"."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count} B"


def count_text(count: int) -> str:
    """A count for people: "8.03 billion"."""
    for unit, size in (("billion", 10**9), ("million", 10**6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,}"
