"""Rows out of files: JSON lists, JSON lines and parquet, read strictly and with a place for every fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_JSON_SPACE = " \t\r\n"


class DataError(ValueError):
    """Data that cannot be used: one sentence with the file, the row, the field and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        index: counted from 0.
        where: the place for messages, such as `dev.jsonl, line 3` (from 1) or `sft.json, row 2 (line 9)`
            (from 0).
        value: what was read.
        fault: why the row is not proper JSON; None if it is.
    """

    index: int
    where: str
    value: Any
    fault: str | None


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a file: parquet by its suffix, a JSON list by its first character, JSON lines otherwise.

    JSON is read strictly: a key that stands twice, NaN or infinities, or text that has no UTF-8 is a row's
    fault.

    Raises:
        DataError: the file is missing, cannot be read or holds no rows, or a JSON list breaks off.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; download the data set or correct the path")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8") from None
    if text.lstrip(_JSON_SPACE).startswith("["):
        yield from _list_rows(path, text)
    else:
        yield from _line_rows(path, text)


def parse_json(text: str) -> Any:
    """The value of a JSON text, read as strictly as rows are.

    Raises:
        DataError: what is wrong, without a place.
    """
    value, end, fault = _decode(text, len(text) - len(text.lstrip(_JSON_SPACE)))
    if fault is None and text[end:].strip(_JSON_SPACE):
        fault = f"not JSON: there is more text after the value, at character {end}"
    if fault is not None:
        raise DataError(fault)
    return value


def get_field(row: Any, name: str, kind: type[T]) -> T:
    """A row's field, which has to be there and of that type.

    Raises:
        DataError: naming the field, without the place of the row.
    """
    if not isinstance(row, dict):
        raise DataError(f"there must be an object with the field {name!r}, not a {type(row).__name__}")
    if name not in row:
        raise DataError(f"the field {name!r} is missing")
    value = row[name]
    if not isinstance(value, kind):
        raise DataError(f"the field {name!r} must be a {kind.__name__}, but is a {type(value).__name__}")
    return value


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet  # here: the import takes long, and JSON does without

    try:
        values = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        first_line = (str(error).splitlines() or ["no reason given"])[0]
        raise DataError(f"{path}: not a parquet file that can be read ({first_line}); download it again") from None
    for index, value in enumerate(values):
        yield Row(index, f"{path}, row {index}", value, None)


def _line_rows(path: Path, text: str) -> Iterator[Row]:
    index = 0
    # Not splitlines(): JSON strings may hold U+2028 and its kin as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip(_JSON_SPACE):
            where = f"{path}, line {number}"
            try:
                yield Row(index, where, parse_json(line), None)
            except DataError as error:
                yield Row(index, where, None, str(error))
            index += 1


def _list_rows(path: Path, text: str) -> Iterator[Row]:
    at = _skip_space(text, text.index("[") + 1)
    line, counted, index = 1, 0, 0
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        where = f"{path}, row {index} (line {line})"
        value, end, fault = _decode(text, at)
        if end == at:  # nothing says where the next row starts
            raise DataError(f"{where}: {fault}; correct the row")
        yield Row(index, where, value, fault)
        at = _skip_space(text, end)
        index += 1
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise DataError(f"{where}: not JSON: a comma or ] must follow the row; is the file complete?")
    if text[at + 1 :].strip(_JSON_SPACE):
        raise DataError(f"{path}: there is more text after the list's end; keep one JSON list in the file")


def _skip_space(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in _JSON_SPACE:
        at += 1
    return at


def _decode(text: str, start: int) -> tuple[Any, int, str | None]:
    """The value that starts there, where it ends, its fault; it ends at `start` if nothing could be read."""
    faults: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _ in pairs]
            faults.append(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice in one object")
        return made

    decoder = json.JSONDecoder(
        object_pairs_hook=build, parse_constant=lambda name: faults.append(f"{name} is not JSON")
    )
    try:
        value, end = decoder.raw_decode(text, start)
        if "\\ud" in text[start:end].lower() and not _encodable(value):
            faults.append("a \\ud... escape is half of a surrogate pair, which has no UTF-8")
    except json.JSONDecodeError as error:
        return None, start, f"not JSON: {error.msg} at character {error.pos - start}"
    except (ValueError, RecursionError):
        return None, start, "not JSON that can be read: a number is too long or the nesting too deep"
    return value, end, faults[0] if faults else None


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
