"""How the documentation is built: Markdown pages, and the reference from docstrings."""

from importlib import metadata

project = "tilework"
copyright = "the tilework developers"
release = metadata.version("tilework")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "tilework"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # the numpydoc sections say it in words
autodoc_member_order = "bysource"
napoleon_google_docstring = False
