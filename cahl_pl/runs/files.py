"""Files that are written whole or not at all, and folders that can be written to."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cahl_pl.errors import ConfigError


def check_checkpoint(path: str) -> None:
    """Check that there is a file of this name to resume from; its content is not checked.

    Raises:
        ConfigError: there is none.
    """
    if not Path(path).exists():
        others = sorted(Path(path).parent.glob("*.ckpt"))
        such = f"such as {others[-1]}" if others else "such as runs/NAME/version_0/checkpoints/step-000060.ckpt"
        raise ConfigError(
            f"--ckpt_path names {path!r}, which does not exist: give a checkpoint that a run has written, {such}, or `last`"
        )
    if Path(path).is_dir():
        raise ConfigError(f"--ckpt_path names {path!r}, which is a folder: give a checkpoint in it, or `last`")


def check_writable(folder: Path) -> None:
    """Make a folder, and check that files can be written to it, before anything is computed for them.

    Raises:
        ConfigError: they cannot: the folder is read-only, no folder can be made there, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise ConfigError(
            f"the output folder {folder} cannot be written to ({error.strerror or error}): make room, correct its "
            "permissions, or give --trainer.logger.init_args.save_dir another one"
        ) from None


def lock(path: Path) -> Callable[[], object]:
    """Lock a file, which is created if needed, against other processes that lock it.

    Returns:
        A function that releases the lock; the end of the process, however it comes, does so too. If the system or the file
        system has no locks, nothing is locked.

    Raises:
        BlockingIOError: another process, or this one, holds the lock.
        OSError: the file cannot be made.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except (ImportError, OSError):
        pass
    return functools.partial(os.close, handle)


def append(path: Path, text: str) -> None:
    """Append text to a file, whole or not at all; characters without UTF-8 become `?`.

    Raises:
        OSError: it cannot be written, such as on a full disk.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, size)  # half a line would spoil the next one
        raise


def write_json(path: Path, content: Any) -> None:
    """Write a value as a JSON file, whole or not at all: if the file exists, other programs know that it is complete.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    beside.replace(path)


def remove_empty_run(folder: Path) -> None:
    """Remove the folder of a run that was refused at its start, unless it contains anything of value."""
    started = ("config.yaml", "hparams.yaml", "data.txt", ".lock")  # written before anything is computed
    kept = [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in started and not path.name.startswith("events.out.tfevents.")
    ]
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
