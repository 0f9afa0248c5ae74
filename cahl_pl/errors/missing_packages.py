"""Packages that a user's Python files import but that are not installed."""

from __future__ import annotations

import re
import traceback
from typing import Final

_DISTRIBUTIONS: Final = {
    "bs4": "beautifulsoup4",
    "Crypto": "pycryptodome",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "jwt": "pyjwt",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Package -> its name for pip, if that differs."""
_SHARED: Final = {"azure": 3, "google": 2}
"""Names that many packages share, and how many parts of a module's name are the package."""


def missing_package(error: BaseException) -> str | None:
    """Return a sentence on the package that an import has not found, the file that imports it, and how to install it.

    None if the error is another one, or the missing module may be the user's own file.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    package = error.name.partition(".")[0]
    if package != error.name and "is not a package" in str(error):
        return None  # `import json.x`
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith("<frozen")]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "the file"
    distribution = _DISTRIBUTIONS.get(package, package.replace("_", "-"))
    if package != error.name and package not in _SHARED:
        return (
            f"{where}: the package {package!r} has no module {error.name!r}; install a version that has: "
            f"pip install -U {distribution}"
        )
    if package in _SHARED and frames and (line := re.match(r"\s*(?:from|import)\s+([\w.]+)", frames[-1].line or "")):
        distribution = "-".join(line[1].replace("_", "-").split(".")[: _SHARED[package]])
    return (
        f"{where}: the package {error.name!r} is not installed; pip install {distribution} (or, if it is a file of your "
        "own, put the folder that holds it into PYTHONPATH)"
    )
