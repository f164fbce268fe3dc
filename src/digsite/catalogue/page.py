"""The catalogue as Markdown: the map, a table for each of its branches, and a section for each method."""

from collections.abc import Iterator, Sequence

from digsite.catalogue.costs import SYMBOLS
from digsite.catalogue.faithfulness import measured_in
from digsite.catalogue.methods import Method, methods
from digsite.catalogue.vocabulary import BRANCHES, EVIDENCE, LEVELS

EXAMPLE = {"n": 100, "layers": 12, "heads": 12, "vocab": 50257}
"""The model and task for which costs are worked out: the size of GPT-2 small, a hundred examples."""


def methods_page() -> str:
    """The whole catalogue: branch by branch, what each method asks, and then everything that is known of it."""
    lines = ["## The map", ""]
    for branch, does in BRANCHES.items():
        lines += [f"- **[{branch}](#{_anchor(branch)})**: {does}"]
    lines += ["", "## Words on this page", "", *_words("level", LEVELS), *_words("evidence", EVIDENCE)]
    lines += [
        *_words("of a cost", SYMBOLS),
        f"Faithfulness is from {', '.join(f'`{one}`' for one in measured_in())}.",
        "",
    ]
    for branch, does in BRANCHES.items():
        here = [one for one in methods().values() if one.entry.branch == branch]
        lines += [f"## {_title(branch)}", "", f"{_title(does)}.", "", *_table(here), ""]
        for one in here:
            lines += [*method_page(one), ""]
    return "\n".join(lines)


def method_page(one: Method) -> list[str]:
    """Everything about one method, as the lines of a section."""
    return [
        f"### {one.name}",
        "",
        f"*{one.entry.question}*",
        "",
        *(f"- **{name}**: {text}" for name, text in facts(one)),
    ]


def facts(one: Method) -> Iterator[tuple[str, str]]:
    """What is known of a method, in the order in which one decides on it."""
    entry, sections = one.entry, one.source.sections
    yield "gives", one.source.summary
    yield "level", ", ".join(entry.level)
    yield "branch", entry.branch
    yield "evidence", f"{entry.evidence}: {EVIDENCE[entry.evidence]}"
    yield "assumes", entry.assumes
    if "Caveats" in sections:
        yield "misleads when", sections["Caveats"]
    yield "faithful", "; ".join(map(str, one.faithfulness)) or "stands on no scoreboard"
    yield "costs", _cost(one)
    yield "unit", sections.get("Units", "in its docstring")
    yield "source", sections.get("Source", "no paper; the module's docstring has the algorithm")
    yield "read first", f"docs/{entry.read}"
    yield "try", f"`{entry.example}`"


def _cost(one: Method) -> str:
    if one.cost is None:
        return "not measured; every result says what it cost"
    if not one.cost.terms:
        return str(one.cost)
    back = f", {one.cost.backward:.0%} of its passes backward" if one.cost.backward else ""
    size = "{n} examples of GPT-2 small ({layers} × {heads} heads)".format(**EXAMPLE)
    large = f"; {one.cost.rows(**EXAMPLE):,} for {size}" if one.cost.scales else ""
    return f"{one.cost}{back}{large}; `{one.cost.call}`, counted on {one.cost.on}"


def _table(some: Sequence[Method]) -> list[str]:
    rows = [f"| [{one.name}](#{_anchor(one.name)}) | {one.entry.question} | {one.entry.evidence} |" for one in some]
    return ["| method | question | evidence |", "|---|---|---|", *rows]


def _words(what: str, meanings: dict[str, str]) -> list[str]:
    return [f"| {what} | meaning |", "|---|---|", *(f"| {word} | {does} |" for word, does in meanings.items()), ""]


def _title(text: str) -> str:
    return text[0].upper() + text[1:]


def _anchor(heading: str) -> str:
    """The address of a heading: GitHub's rule, which the site keeps too."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")
