"""`digsite methods` and `digsite glossary`: which method answers which question, and what a word means, offline."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.text import Text

from digsite.cli.outputs import Json, answers, columns, facts, print_json

if TYPE_CHECKING:
    from digsite.catalogue import Method


def methods(
    *words: str,
    level: Annotated[str | None, Parameter(name="--level")] = None,
    branch: Annotated[str | None, Parameter(name="--branch")] = None,
    json: Json = False,
) -> None:
    """Which method answers this question? What it assumes, how faithful it is, what it costs.

    Args:
        words: A method, of which everything is shown; or words of a question, all of which must occur. Unless given,
            all methods are listed.
        level: Only methods of this level: neuron, head, latent, direction, circuit, graph, behaviour.
        branch: Only methods of this branch of the map, or of all whose names begin so: circuits, sparsifying, linear.
    """
    from digsite import catalogue

    one = catalogue.find(words[0]) if len(words) == 1 else None
    found = [one] if one else catalogue.choose(" ".join(words), level=level, branch=branch)
    if json:
        print_json({"methods": [each.to_dict() for each in found]})
    elif one:
        _show(one)
    else:
        _list(found)


def glossary(*words: str, json: Json = False) -> None:
    """What does this word mean here? One meaning, one formula, as code, figures and reports use it.

    Args:
        words: A term of the glossary, or a word of one. Unless given, all terms are listed.
    """
    from digsite import catalogue

    found = catalogue.define(" ".join(words)) if words else list(catalogue.glossary())
    if json:
        print_json({"terms": [{"word": one.word, "section": one.section, **one.cells} for one in found]})
        return
    out = answers()
    if words:
        for one in found:
            out.print(Text(f"{one.word}  ({one.section})", style="bold"))
            out.print(facts(one.cells.items()))
        return
    for section in dict.fromkeys(one.section for one in found):
        out.print(Text(section, style="bold"))
        out.print(", ".join(one.word for one in found if one.section == section))
        out.print("")


def _show(one: "Method") -> None:
    from digsite.catalogue.page import facts as known

    out = answers()
    for part in (Text(one.name, style="bold"), one.entry.question, ""):
        out.print(part)
    out.print(facts((name, text.replace("`", "")) for name, text in known(one)))


def _list(found: "list[Method]") -> None:
    out = answers()
    for branch in dict.fromkeys(one.entry.branch for one in found):
        table = columns("method", "question", left=2)
        table.title, table.title_justify, table.title_style = branch, "left", "bold"
        for one in found:
            if one.entry.branch == branch:
                table.add_row(one.name, one.entry.question)
        out.print(table)
        out.print("")
    out.print("digsite methods METHOD tells all of one." if found else "No method has all of these words.")
