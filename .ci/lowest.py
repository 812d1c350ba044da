"""The lowest version of every dependency that pyproject.toml allows, as constraints for pip.

`python lowest.py [EXTRA ...]`: only the lines that hold on this Python. Needs `packaging`.
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def lowest(extras: list[str]) -> list[str]:
    """A line name==version for each dependency, and for those of the extras."""
    path = Path(__file__).parent.parent / "pyproject.toml"
    project = tomllib.loads(path.read_text("utf-8"))["project"]
    groups = [
        project["dependencies"],
        *(project["optional-dependencies"][extra] for extra in extras),
    ]
    lines = []
    for requirement in (Requirement(text) for group in groups for text in group):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        bounds = [spec.version for spec in requirement.specifier if spec.operator in (">=", "==")]
        if not bounds:
            sys.exit(f"{requirement}: give a lowest version in pyproject.toml, with >=")
        lines.append(f"{requirement.name}=={bounds[0]}")
    return lines


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
