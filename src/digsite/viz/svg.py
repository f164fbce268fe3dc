"""From a drawn canvas to SVG: a plain file, or a themed piece of a page.

The themed piece follows the reader's system colours, gives every mark its hover text and a place in the keyboard order,
and has ids of its own, so that many figures can share a page.
"""

import io
import re
from dataclasses import asdict
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from digsite.viz import theme
from digsite.viz.canvas import PAD, Canvas, drawing

_VARIABLES = {colour: f"var(--{name},{colour})" for name, colour in asdict(theme.LIGHT).items()}
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"(?:url\(|^)#([A-Za-z]\w*)")


def standalone(canvas: Canvas, *, title: str, description: str) -> str:
    """The figure as an SVG file in light colours, the same bytes for the same data.

    Args:
        canvas: The drawn figure.
        title: What it shows.
        description: The code that made it.
    """
    written = io.StringIO()
    metadata = {"Title": title, "Description": description, "Creator": "digsite", "Date": None}
    with drawing():
        canvas.drawing.savefig(written, format="svg", metadata=metadata)
    text = written.getvalue().replace("font-family: 'DejaVu Sans Mono'", f"font-family: {theme.MONO}")
    return text.replace("font-family: 'DejaVu Sans'", f"font-family: {theme.SANS}")


def themed(canvas: Canvas, *, title: str, prefix: str) -> str:
    """The figure as an `<svg>` element for a page, which writes the title itself.

    Args:
        canvas: The drawn figure.
        title: What it shows; the element's accessible name.
        prefix: What makes its ids unique on the page.
    """
    root = ElementTree.fromstring(standalone(canvas, title="", description="").encode())
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]
        for child in list(parent):
            has_page_version = re.fullmatch(r"patch_1|title\d+", child.get("id", ""))  # patch_1 is the background
            if has_page_version or child.tag.rpartition("}")[2] in ("metadata", "style", "title"):
                parent.remove(child)
    used = {name for element in root.iter() for value in element.attrib.values() for name in _REFERENCE.findall(value)}
    for element in list(root.iter()):
        name = element.attrib.pop("id", "")
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            _set(element, key.rpartition("}")[2], value, prefix)  # xlink:href is plain href in HTML
        if name in canvas.marks:
            _mark(element, canvas.marks[name])
        if name in canvas.dark:
            _swap(element, canvas.dark[name])
        if name in used:
            element.set("id", f"{prefix}-{name}")
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "class": "digsite-svg",
        "viewBox": f"{PAD} {PAD + canvas.title_height:g} {canvas.width} {canvas.height - canvas.title_height:g}",
        "style": f"--w:{canvas.width}",
        "role": "group",
        "aria-label": title,
    }
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode"))


def _set(element: Element, key: str, value: str, prefix: str) -> None:
    """Set an attribute as a page wants it: colours by name, ids of this figure, two decimals."""
    if key == "style":
        _style(element, value, prefix)
        return
    if key in ("d", "transform", "x", "y", "width", "height"):
        value = " ".join(_NUMBER.sub(_shorter, value).split())
    if value.startswith("rotate(-0 "):
        return
    element.set(key, re.sub(r"^(url\()?#(\w)", rf"\1#{prefix}-\2", value))
    if element.tag == "text":
        element.set("aria-hidden", "true")  # a screen reader has the marks and the table


def _style(element: Element, style: str, prefix: str) -> None:
    kept = []
    for rule in style.split(";"):
        name, _, value = (part.strip() for part in rule.partition(":"))
        if name == "font-family":  # the page's own typefaces
            if value == theme.MONO:
                element.set("class", "mono")
            continue
        value = re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), value)
        kept.append(f"{name}:" + value.replace("url(#", f"url(#{prefix}-"))
    element.set("style", ";".join(kept))


def _shorter(match: re.Match[str]) -> str:
    text = f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _mark(group: Element, text: str) -> None:
    group.attrib |= {"class": "mark", "tabindex": "0", "role": "img", "aria-label": text}
    title = Element("title")
    title.text = text
    group.insert(0, title)


def _swap(group: Element, dark: str) -> None:
    """A text on a coloured ground has one colour for each theme."""
    for text in group.iter("text"):
        light = re.search(r"fill:(?:var\([\w-]+,)?(#[0-9a-f]{6})", text.get("style", ""))
        rest = re.sub(r"(^|;)fill:[^;]*", "", text.get("style", ""))
        text.set("style", f"{rest.strip(';')};--light:{light[1] if light else '#000000'};--dark:{dark}")
        text.set("class", "swap")
