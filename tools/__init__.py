"""Maintainers' programs, run from the root of the repository: `python -m tools.FOLDER.PROGRAM`. Not part of the package."""
