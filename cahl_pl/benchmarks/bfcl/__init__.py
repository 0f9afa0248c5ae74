"""The Berkeley Function-Calling Leaderboard, by the data and the checkers of the package `bfcl-eval`."""

from cahl_pl.benchmarks.bfcl.benchmark import BFCL

__all__ = ["BFCL"]
