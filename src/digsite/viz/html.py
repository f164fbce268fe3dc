"""Text to HTML: everything is escaped; `names` in backticks become code; templates lie beside this file."""

import base64
import functools
import re

import jinja2
from markupsafe import Markup, escape

from digsite.viz import theme


def inline(text: str) -> Markup:
    """A sentence as HTML: escaped, with what stands in backticks as code."""
    escaped = escape(text)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escaped))) if "`" in text else escaped


def data_uri(content: str | bytes, kind: str) -> str:
    """Content as an address that needs no server.

    Args:
        content: The file.
        kind: Its media type, such as `text/csv`.
    """
    raw = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(raw).decode('ascii')}"


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("digsite.viz"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    stacks = {"sans": Markup(theme.SANS), "mono": Markup(theme.MONO)}
    environment.globals |= {"light": theme.LIGHT.variables(), "dark": theme.DARK.variables()} | stacks
    return environment


def render(template: str, **values: object) -> Markup:
    """Fill a template of this room; what is put in is escaped unless it is markup already."""
    return Markup(_templates().get_template(template).render(**values))
