"""What maintainers run, from the root of the repository: `python -m tools.FOLDER.PROGRAM`. No part of the package."""
