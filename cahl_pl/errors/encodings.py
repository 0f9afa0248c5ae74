"""Text files that are not UTF-8: their encoding, as far as it can be determined, and how to convert them."""

from __future__ import annotations

import codecs
import os
import shlex
from typing import Final

from cahl_pl.errors import DataError

_MARKS: Final = {  # UTF-32 first: its mark starts with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def wide_encoding(start: bytes) -> str | None:
    """Return UTF-16 or UTF-32, as iconv names it, if a text starts with its mark, or with ASCII in it; else None."""
    marked = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if marked is not None or len(start) < 2:
        return marked
    zero: tuple[bool, ...] = tuple(byte == 0 for byte in start[:4])
    unmarked: dict[tuple[bool, ...], str] = {
        (False, True, True, True): "UTF-32LE",
        (True, True, True, False): "UTF-32BE",
    }
    pairs: dict[tuple[bool, ...], str] = {(False, True): "UTF-16LE", (True, False): "UTF-16BE"}
    return unmarked.get(zero) or pairs.get(zero[:2])


def not_utf8(path: str | os.PathLike[str], start: bytes, byte: int = 0) -> str:
    """Return the message about a text file that is not UTF-8, to follow its name and place.

    Args:
        path: the file.
        start: its first bytes.
        byte: the first one that is not UTF-8, counted from 0.
    """
    encoding = wide_encoding(start)
    stem, suffix = os.path.splitext(os.fspath(path))
    files = f"{shlex.quote(os.fspath(path))} > {shlex.quote(f'{stem}.utf8{suffix}')}"
    if encoding is not None:
        return f"the file is {encoding[:6]}, not UTF-8; convert it to UTF-8: iconv -f {encoding} -t UTF-8 {files}"
    return (
        f"byte {byte} is not UTF-8; convert the file to UTF-8, from WINDOWS-1252 or whatever it is in: "
        f"iconv -f WINDOWS-1252 -t UTF-8 {files}"
    )


def decoded(data: bytes, path: str | os.PathLike[str]) -> str:
    """Return the text of a file's bytes, without a byte order mark.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        if wide_encoding(data[:4]) is None:
            return data.decode("utf-8-sig")
        raise DataError(f"{path}: {not_utf8(path, data[:4])}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {not_utf8(path, data[:4], error.start)}") from None
