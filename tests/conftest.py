"""Shapes are checked in every test: what names the axes of a tensor is wrapped by jaxtyping and beartype.

Only that: to wrap every function would take as long as the tests themselves, and other types are the type checker's.
"""

import ast
import re
from typing import Any

from jaxtyping import _import_hook, install_import_hook

AXES = re.compile(r"\b(Float|U?Int\d*|Bool|Shaped|Num)\[")


class Transformer(_import_hook.JaxtypingTransformer):
    """Leaves alone the functions without an axis in their signature, and the classes without one in their fields."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        """A function, and those inside it."""
        signature = f"{ast.unparse(node.args)} {ast.unparse(node.returns) if node.returns else ''}"
        return super().visit_FunctionDef(node) if AXES.search(signature) else self.generic_visit(node) or node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        """A class, and its methods."""
        fields = " ".join(ast.unparse(one) for one in node.body if isinstance(one, ast.AnnAssign))
        return super().visit_ClassDef(node) if AXES.search(fields) else self.generic_visit(node) or node


_import_hook.JaxtypingTransformer = Transformer
install_import_hook("digsite", "shapes.checked")
