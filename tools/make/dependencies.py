"""Print the packages that `pyproject.toml` requires, runtime and `dev`, without their bounds.

python -m tools.make.dependencies
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def names() -> list[str]:
    """Return every direct dependency of the package and of its `dev` extra, with its extras, but without torch."""
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    found = [re.match(r"[\w.-]+(?:\[[\w,]+\])?", requirement)[0] for requirement in requirements]  # type: ignore[index]
    return [name for name in dict.fromkeys(found) if name != "torch"]  # its build depends on the machine


if __name__ == "__main__":
    print(*names())
