"""How the documentation is built: `.ci/docs`, or sphinx-build docs site, with the extra `docs`."""

import os
import shutil
import sys
from importlib import metadata, resources
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
# The pages are executed on the CPU, whatever the machine has, so that they say the same everywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "ddpm_jax"
author = "the ddpm_jax contributors"
copyright = author
release = metadata.version("ddpm-jax")
version = release

extensions = [
    "docstrings",
    "rooms",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
add_module_names = False
default_role = "code"
viewcode_line_numbers = True

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "executed")
nb_execution_in_temp = True  # pages write files: a table, a model
nb_execution_timeout = 1800  # a cell; a busy machine takes its time
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars; a warning of Python would stand there too
nb_mime_priority_overrides = [("html", "text/html", 0), ("html", "image/svg+xml", 10)]

html_theme = "furo"
html_title = "ddpm_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0062a3", "color-brand-content": "#0062a3"},
    "dark_css_variables": {"color-brand-primary": "#5db8ee", "color-brand-content": "#5db8ee"},
    "footer_icons": [],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# One file, with its fonts inside, copied beside the pages: formulas are set without a network.
mathjax_path = "tex-svg.js"
mathjax3_config = {"svg": {"fontCache": "global"}, "options": {"enableMenu": False}}


def copy_mathjax(app, error) -> None:
    """Put MathJax beside the finished pages."""
    if error is None and app.builder.format == "html":
        source = resources.files("sphinx-mathjax-offline") / "static" / "mathjax" / "tex-svg.js"
        with resources.as_file(source) as path:
            shutil.copy(path, Path(app.outdir) / "_static" / "tex-svg.js")


def own_module(app, module: str, name: str) -> str | None:
    """Where the source of an object is shown: where it is documented, but for the front door's.

    Sphinx would follow an alias such as `Row = dict` to Python's own module, which has no page.
    """
    return None if module == "ddpm_jax" else module


def setup(app) -> None:
    """Sphinx calls this."""
    app.connect("build-finished", copy_mathjax)
    app.connect("viewcode-follow-imported", own_module)
