"""Official benchmarks, run by `test` alongside task sources: one module or folder each."""

from cahl_pl.benchmarks.answers import CallableJudge, EndpointJudge
from cahl_pl.benchmarks.api_bank import APIBank
from cahl_pl.benchmarks.bamboogle import Bamboogle
from cahl_pl.benchmarks.base import Benchmark
from cahl_pl.benchmarks.bfcl import BFCL
from cahl_pl.benchmarks.search import BM25Search, HTTPSearch, RecordedSearch

__all__ = [
    "BFCL",
    "APIBank",
    "BM25Search",
    "Bamboogle",
    "Benchmark",
    "CallableJudge",
    "EndpointJudge",
    "HTTPSearch",
    "RecordedSearch",
]
