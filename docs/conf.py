"""Settings of the documentation site: `make docs`. Its source is the repository, so that links are those of GitHub."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

from digsite import __version__  # noqa: E402

project, release, copyright = "digsite", __version__, "the digsite authors"
html_title = f"digsite {release}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "reference"]
root_doc = "docs/index"
include_patterns = ["docs/**", "design/*.md", "benchmarks/**/*.md", "src/**/weights/**README.md", "C*.md"]
exclude_patterns = [".*", "docs/_*", "tests", "demo", "**/__pycache__"]

myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # toy pages fold their solutions, whose headings skip a level

templates_path = [str(HERE / "_templates")]
default_role = "code"  # docstrings mark code with single backticks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"exclude-members": "SCHEMA"}
python_maximum_signature_line_length = 88
add_module_names = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Units", "Source", "Caveats"]

highlight_language = "text"  # what is set in in a docstring is rarely Python
html_theme = "furo"
pygments_dark_style = "github-dark"
html_static_path = ["_static"]
html_extra_path = ["_front"]  # an index.html where one looks for it
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = False
html_show_search_summary = False  # it fetches pages, which a browser refuses from file://
html_theme_options = {
    "light_css_variables": {
        "color-background-primary": "#fbfaf7",
        "color-background-secondary": "#f4f2ec",
        "color-foreground-primary": "#1c2330",
        "color-sidebar-link-text--top-level": "var(--color-foreground-primary)",
        "color-api-name": "var(--color-foreground-primary)",
        "color-highlight-on-target": "#f4e6c3",
        "color-brand-primary": "#8a5b00",
        "color-brand-content": "#2a6cab",
        "color-brand-visited": "#2a6cab",
    },
    "dark_css_variables": {
        "color-background-primary": "#14171d",
        "color-background-secondary": "#1b2028",
        "color-foreground-primary": "#e8eaee",
        "color-sidebar-link-text--top-level": "var(--color-foreground-primary)",
        "color-api-name": "var(--color-foreground-primary)",
        "color-highlight-on-target": "#3a3120",
        "color-brand-primary": "#f0b44a",
        "color-brand-content": "#7db6ec",
        "color-brand-visited": "#7db6ec",
    },
}
