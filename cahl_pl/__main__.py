"""`python -m cahl_pl`."""

from cahl_pl.commands import console

if __name__ == "__main__":
    console()
