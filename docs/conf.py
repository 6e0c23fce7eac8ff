"""How `make docs` builds the site: Sphinx, furo and MyST, without a look at the network."""

import tomllib
from pathlib import Path

from pygments.lexers import PostgresLexer
from sphinx.application import Sphinx
from sphinx.highlighting import lexers

_PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
version = release = _PROJECT["version"]
author = _PROJECT["authors"][0]["name"]
copyright = author  # noqa: A001 (Sphinx's name)

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist", "html_image"]  # for the list of settings; <img> has a width
myst_heading_anchors = 3  # links to headings, as code hosts make them
exclude_patterns = ["_build"]
lexers["sql"] = PostgresLexer()  # code hosts know the language by that name; it knows what $$ is

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_copy_source = False
html_show_copyright = False


def _wrap_output(app: Sphinx, page: str, *_: object) -> None:
    if page.startswith(("tutorial/", "how-to/")):  # elsewhere text blocks are drawings
        app.add_css_file("output.css")


def setup(app: Sphinx) -> None:
    """What cannot be said by names: Sphinx calls it."""
    app.connect("html-page-context", _wrap_output)
