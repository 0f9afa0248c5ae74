"""Tasks from files: reading and judging rows; each row format is a module of `formats`."""

from cahl_pl.datasets.base import TaskSource
from cahl_pl.datasets.formats.rlla import RllaDataset
from cahl_pl.datasets.formats.seal_tools import SealToolsDataset
from cahl_pl.datasets.jsonl import JsonlDataset
from cahl_pl.datasets.masking import MaskedNames
from cahl_pl.datasets.report import LoadReport
from cahl_pl.datasets.requests import Requests
from cahl_pl.errors import DataError

__all__ = [
    "DataError",
    "JsonlDataset",
    "LoadReport",
    "MaskedNames",
    "Requests",
    "RllaDataset",
    "SealToolsDataset",
    "TaskSource",
]
