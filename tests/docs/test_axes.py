"""Shapes speak one language: every axis in a jaxtyping string is a word of the glossary."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "glossary.md").read_text().split("\n## Axes\n")[1].split("\n## ")[0]
WORDS = set(re.findall(r"^\| `(\w+)` \|", SECTION, re.MULTILINE))
DTYPES = {name for name in dir(jaxtyping) if hasattr(getattr(jaxtyping, name), "dtypes")}


def shapes(source: str) -> Iterator[tuple[int, str]]:
    """Line and string of every `Float[Tensor, "..."]`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Subscript(
                value=ast.Name(id=name) | ast.Attribute(attr=name),
                slice=ast.Tuple(elts=[_, ast.Constant(value=str(shape))]),
            ) if name in DTYPES:
                yield node.lineno, shape


def strangers(shape: str) -> list[str]:
    """The axes of a shape that are in no list: not a word, a number, `...`, `_`, nor a `*group` of axes."""
    bare = (axis.partition("=")[2] or axis for axis in shape.split())
    single = [axis.lstrip("#?") for axis in bare if not axis.lstrip("#?").startswith(("*", "_", "..."))]
    names = [name for axis in single for name in re.findall(r"[A-Za-z_]\w*", axis)]
    return [name for name in names if name not in WORDS]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT / "src"))
)
def test_every_axis_is_a_word_of_the_glossary(path):
    found = [(line, shape, strangers(shape)) for line, shape in shapes(path.read_text())]
    unknown = [f"line {line}: {shape!r} has {names}" for line, shape, names in found if names]
    assert not unknown, f"Use a word of docs/glossary.md, or add one there: {unknown}"


def test_the_walk_sees_shapes_and_knows_what_is_allowed():
    source = (
        'def f(x: Float[Tensor, "batch s"], y: jt.Int[np.ndarray, " pos"]) -> Bool[Tensor, "*cells #head 2*pos"]: ...'
    )
    assert {shape for _, shape in shapes(source)} == {"batch s", " pos", "*cells #head 2*pos"}
    assert strangers("batch s") == ["s"] and strangers("*cells #head 2*pos n=3 _ ... 4") == []
    assert strangers("seq_len*2 *#b ?d_mlp") == ["seq_len"]
    assert {"batch", "d_model", "latent", "example"} <= WORDS
    assert {"Float", "Int", "Bool", "Shaped", "UInt8", "BFloat16"} <= DTYPES
