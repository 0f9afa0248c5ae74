"""User code, such as a reward or a source of tasks: its errors are reported in one sentence."""

from __future__ import annotations

import contextlib
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Final

from cahl_pl.errors import ConfigError, Interrupted, UserError

_PLACES: Final = {
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))),  # not resolved: a folder of the package may be a link
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")),
}
"""Folders whose files are not the user's: this package, Python and installed packages."""


def path_of(own: object) -> str:
    """Return the import path of an object's class."""
    return f"{type(own).__module__}.{type(own).__qualname__}"


def is_ours(own: object) -> bool:
    """Return whether an object's class belongs to this package, whose faults are ours and keep their traceback."""
    return type(own).__module__.partition(".")[0] == __name__.partition(".")[0]


def raised_by(own: object, method: str, of: str, error: BaseException) -> str:
    """Return a clause, without a full stop, on a method's error: for which task or the like, and in which line.

    Args:
        own: the object.
        method: the method that was called.
        of: what it was called for, such as `"task 'a'"`; empty if that says nothing.
        error: the error that it raised.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    where = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return f"{path_of(own)}.{method} raised {_told(error)}{of and f' for {of}'}{where}"


def of_constructor(made: type, error: Exception) -> str | None:
    """Return a sentence on a constructor's error; None for a class of this package, which says it itself."""
    if made.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return None
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    where = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    cure = "correct it, or its init_args" if frames else "correct its init_args"
    return f"{made.__module__}.{made.__qualname__} cannot be made: its constructor raised {_told(error)}{where}: {cure}"


@contextlib.contextmanager
def own_code(own: object, method: str, of: str = "") -> Iterator[None]:
    """Report errors of a method of a user's own class in one sentence; those of a class of this package pass.

    Args:
        own: the object.
        method: its method that is called within.
        of: see `raised_by`.

    Raises:
        ConfigError: the method raises an error that is not written for users. The run's state is saved.
    """
    try:
        yield
    except (UserError, Interrupted, KeyboardInterrupt):  # a signal may come at any time
        raise
    except (Exception, SystemExit) as error:
        if is_ours(own):
            raise
        raise ConfigError(f"{raised_by(own, method, of, error)}: correct it") from error


def sentence_of_own_code(error: BaseException) -> str | None:
    """Return a sentence on an error that was raised in, or below, a user's own file; None for any other.

    Such a file belongs neither to Python nor to an installed package or this one.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = next((frame for frame in reversed(frames) if _is_users(frame.filename)), None)
    if own is None:
        return _of_signature(error)
    where = f"{own.filename}, line {own.lineno}: {own.name}"
    return f"{where} raised {_told(error)}: correct it (CAHL_TRACEBACK=1 shows the traceback)"


def _of_signature(error: BaseException) -> str | None:
    """Return a sentence on a user's function that does not accept its call's arguments: none of its lines has been run."""
    named = re.match(r"([\w.<>]+)\(\) (?:takes|got|missing)\b", str(error)) if isinstance(error, TypeError) else None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if named is None or trace is None:
        return None
    for value in trace.tb_frame.f_locals.values():
        code = getattr(getattr(value, "__func__", value), "__code__", None)
        if isinstance(code, CodeType) and code.co_qualname == named[1] and _is_users(code.co_filename):
            where = f"{code.co_filename}, line {code.co_firstlineno}: {named[1]}"
            return f"{where} has other parameters than it is called with ({_told(error)}): correct them"
    return None


def _told(error: BaseException) -> str:
    """Return the type and message of an error, in one line."""
    try:
        text = " ".join(str(error).split())[:200]
    except Exception:  # a user's own error may have its own __str__
        text = ""
    return f"{type(error).__name__}{text and f' ({text})'}"


def _is_users(file: str) -> bool:
    if file.startswith("<"):
        return False
    path = Path(os.path.abspath(file))
    installed = {"site-packages", "dist-packages"}.intersection(path.parts)
    return not installed and not any(one.is_relative_to(place) for one in (path, path.resolve()) for place in _PLACES)
