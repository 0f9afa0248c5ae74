"""`python -m cahl_pl`."""

from cahl_pl.cli import console

if __name__ == "__main__":
    console()
