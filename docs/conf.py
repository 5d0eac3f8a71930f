"""Sphinx configuration."""

from pathlib import Path

import isingmoe
from isingmoe._schema import ATTRIBUTES, VARIABLES

project = "isingmoe"
author = "The isingmoe developers"
copyright = "2026, the isingmoe developers"  # noqa: A001
version = release = isingmoe.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]
html_title = "isingmoe"
html_theme = "pydata_sphinx_theme"
html_sidebars = {"**": []}
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
numpydoc_show_class_members = False
autodoc_typehints = "none"

# The schema is declared in one place; these tables are written from it.
_generated = Path(__file__).parent / "_build" / "generated"
_generated.mkdir(parents=True, exist_ok=True)
(_generated / "variables.md").write_text(
    "| name | dims | dtype | required | |\n|---|---|---|---|---|\n"
    + "".join(
        f"| `{v.name}` | {', '.join(v.dims)} | {' or '.join(v.dtypes)} "
        f"| {'yes' if v.required else 'no'} | {v.long_name} |\n"
        for v in VARIABLES
    ),
    encoding="utf-8",
)
(_generated / "attributes.md").write_text(
    "| attribute | type | required | |\n|---|---|---|---|\n"
    + "".join(
        f"| `{a.name}` | {a.kind.__name__} | {'yes' if a.required else 'no'} | {a.meaning} |\n"
        for a in ATTRIBUTES
    ),
    encoding="utf-8",
)
