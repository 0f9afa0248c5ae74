"""Rows of a data set on the Hugging Face hub, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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
            f'{source}: the library datasets is not installed: pip install "cahl-pl[hub]", or give a local file'
        ) from None
    index = 0
    try:
        rows = load_dataset(name, split=split or "train", streaming=True)
        features = getattr(rows, "features", None)
        for value in rows:
            yield FileRow(index, f"{source}, row {index + 1}", _without_nulls(value, features), None)
            index += 1
    except Exception as error:  # the library passes on errors of the network, the hub and every file format
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{source}: cannot be read at row {index + 1} ({first}); correct the name or the split, and log in to the hub if "
            "the data set asks for it"
        ) from error


def _without_nulls(row: Any, features: Any) -> Any:
    """Return a row without null fields of nested structs: as in parquet, one struct type has the keys of all rows.

    Args:
        row: the row.
        features: the types of its fields, of which JSON ones keep their nulls; None if not known.
    """
    if not isinstance(row, dict) or not isinstance(features, Mapping):
        return row
    return {key: _value(item, features.get(key)) for key, item in row.items()}


def _value(value: Any, feature: Any) -> Any:
    if isinstance(value, dict) and isinstance(feature, Mapping):
        return {key: _value(item, feature.get(key)) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
        return [_value(item, inner) for item in value]
    return value
