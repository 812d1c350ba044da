"""A page of the reference for each room of the library, made anew at each build.

So that no module is forgotten: what stands in a folder of ddpm_jax stands in the reference.
"""

import importlib
import pkgutil
from pathlib import Path

ROOMS = (
    "diffusion",
    "networks",
    "training",
    "points",
    "quality",
    "figures",
    "runs",
)


def page(name: str) -> str:
    """The page of one room, as Markdown."""
    room = importlib.import_module(f"ddpm_jax.{name}")
    modules = sorted(found.name for found in pkgutil.iter_modules(room.__path__))
    parts = [f"# {name}", (room.__doc__ or "").strip()]
    parts += [automodule(f"{name}.{module}") for module in modules if module[0] != "_"]
    return "\n\n".join(parts) + "\n"


def automodule(name: str) -> str:
    """A section for one module, of whatever it defines that has a docstring."""
    return f"## {name}\n\n```{{eval-rst}}\n.. automodule:: ddpm_jax.{name}\n```"


def write(app) -> None:
    """Write the pages, each only where it changed, so that a second build is quick."""
    folder = Path(app.srcdir) / "reference"
    pages = {name: page(name) for name in ROOMS}
    library = importlib.import_module("ddpm_jax")
    loose = sorted(
        found.name for found in pkgutil.iter_modules(library.__path__) if not found.ispkg
    )
    kept = [name for name in loose if name[0] != "_" and name not in ("model", "config")]
    pages["others"] = "# Beside the rooms\n\n" + "\n\n".join(map(automodule, kept)) + "\n"
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def setup(app) -> dict:
    """Before Sphinx looks for pages."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
