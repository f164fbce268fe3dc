"""The reference: one page a room, from its docstrings.

1. A page goes file by file: the algorithm, then the names that the room offers (`_templates/autosummary/module.rst`).
2. Docstrings are plain English, with code in backticks or below `::`; what else would be markup is escaped.
3. A dataclass is told by its attributes; its signature would say the same again.
"""

import ast
import re
from collections import defaultdict
from dataclasses import is_dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
CODE = re.compile(r"(`[^`]*`|(?<=::)\n\n(?: {4}.*\n|\n)*)")


def offered() -> dict[str, dict[str, list[str]]]:
    """The public names of each room, by the module that they are written in."""
    rooms: dict[str, dict[str, list[str]]] = {}
    for init in sorted(SOURCE.rglob("__init__.py")):
        room = ".".join(init.parent.relative_to(SOURCE).parts)
        modules = rooms[room] = defaultdict(list)
        for node in ast.walk(ast.parse(init.read_text(encoding="utf-8"))):
            module = str(getattr(node, "module", ""))  # of an import; a room within has its own page
            if module.startswith(f"{room}.") and not SOURCE.joinpath(*module.split(".")).is_dir():
                modules[module] += [one.name for one in node.names if one.name[0] != "_"]
    return {room: dict(modules) for room, modules in rooms.items() if modules}


def escape(app, what, name, found, options, lines):
    """What is not code means itself, and a list begins after an empty line."""
    parts = CODE.split("\n".join(lines))
    parts[::2] = [re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"(?<!\n)\n(?= *(?:\d+\.|-) )", "\n\n", part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def literal(app, what, name, found, options, lines):
    """The type of an attribute as it is written, without the modules that its words come from."""
    for i, line in enumerate(lines):
        if line.startswith(":vartype "):
            head, kind = line.split(": ", 1)
            bare = re.sub(r"[~\w.]+\.(?=[A-Z])", "", kind)
            lines[i] = f"{head}: ``{bare}``"


def signature(app, what, name, found, options, written, returns):
    """A dataclass is told by its attributes."""
    return ("", None) if what == "class" and is_dataclass(found) else None


def setup(app):
    """Called by Sphinx."""
    from sphinx.domains.python import PyObject

    app.connect("config-inited", lambda app, config: config.autosummary_context.update(offered=offered()))
    app.connect("autodoc-process-docstring", escape, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", literal, priority=900)
    app.connect("autodoc-process-signature", signature)
    next(field for field in PyObject.doc_field_types if field.name == "variable").label = "Attributes"
    return {"parallel_read_safe": True}
