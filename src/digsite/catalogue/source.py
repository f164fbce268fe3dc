"""What the package's source says of its methods, read without importing it.

1. A method is a function under `@method`; find them all by parsing the files that have one.
2. Its name is that under which a dig remembers it: the room and the function, `patching.activation_patching`.
3. Split its docstring into its sections. A source that the whole module shares is said in the module's docstring.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
_HEADING = re.compile(r"^(Args|Attributes|Returns|Raises|Units|Source|Caveats):[ ]*(.*)$")


@dataclass(frozen=True, kw_only=True)
class Documented:
    """A method as its source describes it.

    Attributes:
        name: The room and the function.
        module: Where it is written.
        call: How it is called: its arguments as they stand in the code, without defaults of options.
        summary: The first line of its docstring: what it means to a scientist.
        sections: The sections of its docstring by heading, each as one paragraph.
    """

    name: str
    module: str
    call: str
    summary: str
    sections: Mapping[str, str]


@cache
def documented() -> Mapping[str, Documented]:
    """Every method of digsite, in the order of their names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\n@method\n" not in text:
            continue
        rooms = path.relative_to(PACKAGE).with_suffix("").parts
        module = ".".join(("digsite", *rooms))
        tree = ast.parse(text)
        shared = sections(ast.get_docstring(tree) or "")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and _marked(node):
                doc = ast.get_docstring(node) or ""
                own = sections(doc)
                if "Source" in shared:
                    own.setdefault("Source", shared["Source"])
                name = f"{rooms[0]}.{node.name}"
                found[name] = Documented(
                    name=name, module=module, call=_call(node), summary=doc.partition("\n")[0], sections=own
                )
    return dict(sorted(found.items()))


def sections(doc: str) -> dict[str, str]:
    """The sections of a docstring in Google's style, each on one line.

    A section is indented below its heading, or begins on the heading's line and goes on to the next empty line.
    """
    found: dict[str, list[str]] = {}
    name, inline = "", False
    for line in doc.splitlines():
        heading = _HEADING.match(line)
        if heading:
            name, inline = heading[1], bool(heading[2])
            found[name] = [heading[2]]
        elif (inline and not line.strip()) or (not inline and line[:1].strip()):
            name = ""  # the section has ended
        elif name:
            found[name].append(line.strip())
    return {name: " ".join(" ".join(lines).split()) for name, lines in found.items()}


def _marked(node: ast.FunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "method" for mark in node.decorator_list)


def _call(node: ast.FunctionDef) -> str:
    """The call with what must be given; `...` stands for options."""
    args = node.args
    plain = [*args.posonlyargs, *args.args]
    needed = plain[: len(plain) - len(args.defaults)]
    words = [one.arg for one in needed]
    words += [f"{one.arg}=" for one, default in zip(args.kwonlyargs, args.kw_defaults, strict=True) if default is None]
    optional = len(needed) < len(plain) or any(default is not None for default in args.kw_defaults)
    return f"{node.name}({', '.join([*words, *(['...'] if optional else [])])})"
