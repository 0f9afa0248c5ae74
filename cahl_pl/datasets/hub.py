"""Rows of a data set on the Hugging Face hub, one at a time."""

from __future__ import annotations

from collections.abc import Iterator

from cahl_pl.datasets.rows import FileRow
from cahl_pl.errors import DataError

PREFIX = "hub:"


def hub_rows(source: str) -> Iterator[FileRow]:
    """Yield the rows of a split, streamed by the `datasets` library: nothing is downloaded beyond what is read.

    Args:
        source: `hub:OWNER/NAME` or `hub:OWNER/NAME:SPLIT`; the split is `train` if none is given.

    Raises:
        DataError: the library is missing, or the data set or a row of it cannot be read.
    """
    name, _, split = source.removeprefix(PREFIX).partition(":")
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(
            f"{source}: the library datasets is missing; pip install datasets, or give a local file"
        ) from None
    index = 0
    try:
        for value in load_dataset(name, split=split or "train", streaming=True):
            yield FileRow(index, f"{source}, row {index}", value, None)
            index += 1
    except Exception as error:  # the library passes on those of the network, the hub and every file format
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{source}: cannot be read at row {index} ({first}); correct the name or the split, and log in to the hub if the "
            "data set asks for it"
        ) from error
