"""Daily logs whose sums are known."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path

ZONE = "Europe/Zurich"
Pair = tuple[str, str]


def clock(minutes: int) -> str:
    """Minutes after midnight as a clock shows them."""
    return f"{minutes // 60:02}:{minutes % 60:02}"


def front(day: date, pairs: Sequence[Pair], **more: str) -> str:
    """An entry with its times in the front matter."""
    told = "".join(f'{name}: "{value}"\n' for name, value in more.items())
    sessions = "".join(f'  - in: "{first}"\n' + (f'    out: "{last}"\n' if last else "") for first, last in pairs)
    return f"---\ndate: {day}\nzone: {ZONE}\n{told}sessions:\n{sessions}---\n\nNotes with $x^2$ of {day}.\n"


def table(day: date, pairs: Sequence[Pair], **more: str) -> str:
    """An entry without front matter, its times in a table."""
    told = "".join(f"**{name.capitalize()}:** {value}\n\n" for name, value in more.items())
    rows = "".join(f"| {first} | {last} |\n" for first, last in pairs)
    return f"# {day}\n\nZone: {ZONE}\n\n{told}| In | Out |\n|----|-----|\n{rows}\nNotes with $x^2$ of {day}.\n"


def write(folder: Path, days: Iterable[tuple[date, Sequence[Pair]]]) -> Path:
    """The files of a log, every other one in the other form."""
    folder.mkdir(exist_ok=True, parents=True)
    for at, (day, pairs) in enumerate(days):
        (folder / f"{day}.md").write_text((front, table)[at % 2](day, pairs), encoding="utf-8")
    return folder


NEWEST = ((10, 29), (5, 20), (7, 0), (4, 0), (0, 5), (5, 30), (0, 0), (1, 0), (2, 0), (3, 0))
"""Hours and minutes of the ten newest entries, 2026-03-30 the first, as a page that clips at zero shows them."""
BACKWARDS = ("2025-12-30", "2026-01-19", "2026-02-20", "2026-02-24", "2026-02-26", "2026-03-24")
EATEN = {"2026-01-19": 90, "2026-02-24": 180}
"""Minutes of good sessions on days whose other session ends before it begins: clipping a day at zero loses them."""
CLIPPED = 385 * 60 + 37


def known() -> dict[date, list[Pair]]:
    """132 entries that sum to 385 h 37 min when each day is clipped at zero, six of them with an out before its in."""
    days = [date(2026, 3, 30) - timedelta(ago) for ago in range(10)]
    made = {day: [("10:40", clock(640 + 60 * h + m))] for day, (h, m) in zip(days, NEWEST, strict=True)}
    made[date(2026, 3, 24)] = [("17:50", "07:30")]
    left_out = {date(2025, 12, 24), date(2025, 12, 25), date(2026, 1, 1)}
    earlier = [date(2025, 11, 15) + timedelta(at) for at in range(125)]
    earlier = [day for day in earlier if day not in left_out]
    good = [day for day in earlier if str(day) not in BACKWARDS]
    minutes = CLIPPED - sum(60 * h + m for h, m in NEWEST)
    for at, day in enumerate(good):
        share = minutes // (len(good) - at) + (at % 7 - 3) * 9 if at < len(good) - 1 else minutes
        minutes -= share
        half = share // 2
        made[day] = [("08:05", clock(485 + half)), ("14:00", clock(840 + share - half))]
    for day in earlier:
        if str(day) in BACKWARDS:
            eaten = EATEN.get(str(day), 0)
            made[day] = [("08:00", clock(480 + eaten))] * bool(eaten) + [("23:10", "01:20")]
    return dict(sorted(made.items()))
