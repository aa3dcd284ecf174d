"""The site of `make docs`: the Markdown files of this repository as they are, and the reference from the docstrings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from sphinx.application import Sphinx

from srcyc import __version__

project = "SRCyc"
copyright = "the SRCyc developers"
version = release = __version__

# The source folder is the repository, so that links hold here as they hold there.
root_doc = "README"
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "sample-data/README.md"),
    *("docs/*.md", "docs/reference/*.md", "lib/srcyc/models/*.md"),
]
exclude_patterns = [".*", "build", "runs", "tests", "srcyc_app", "demo-output", "**/__pycache__"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
nitpicky = True
# What other libraries call their types is theirs; ours must be there, and so must all that a docstring names.
nitpick_ignore_regex = [
    ("py:class", r"(?!srcyc\.).*"),
    # Names that annotations have for themselves.
    ("py:class", r"srcyc\..*\.(_\w+|Annotated|Frame|Origin|Voxels|Wanted)|srcyc\.schema\.\w+"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    "special-members": "__call__",
    "exclude-members": "model_config",
}
napoleon_use_ivar = True
napoleon_attr_annotations = False

html_theme = "furo"
html_title = f"SRCyc {__version__}"

#: What the sidebar lists. In the repository, README itself links to what it speaks of.
_CONTENTS = """
```{toctree}
:hidden:
:caption: Guides
:glob:
docs/python
docs/*
```
```{toctree}
:hidden:
:caption: Models
lib/srcyc/models/srcyc-fidelity
lib/srcyc/models/srcyc-perceptual
sample-data/README
```
```{toctree}
:hidden:
:caption: Reference
:glob:
docs/reference/*
```
```{toctree}
:hidden:
:caption: Project
CONTRIBUTING
CHANGELOG
```
"""


def _add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    if name == root_doc:
        source[0] += _CONTENTS


def _describe_fields(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Settings describe themselves in their fields, for forms and help."""
    if what == "class" and issubclass(obj, BaseModel):
        described = {key: field for key, field in obj.model_fields.items() if field.description}
        for key, field in described.items():
            lines += [f":ivar {key}: {field.description} Default: ``{field.default}``."]
        lines += [""] * bool(described)


def _keep_sentence(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon for a type, in the one line that an attribute or a property has."""
    if what in ("attribute", "data", "property"):
        for line in [line for line in lines if line.startswith(":type: ")]:
            lines.remove(line)
            lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"


def _lead_in(app: Sphinx, error: Exception | None) -> None:
    """A site begins at its index."""
    if error is None:
        (Path(app.outdir) / "index.html").write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html"><title>SRCyc</title>\n',
            encoding="utf-8",
        )


def setup(app: Sphinx) -> None:
    """Register the above."""
    app.connect("source-read", _add_contents)
    app.connect("autodoc-process-docstring", _describe_fields)
    app.connect("autodoc-process-docstring", _keep_sentence, priority=900)
    app.connect("build-finished", _lead_in)
