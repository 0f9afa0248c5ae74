"""Attacks from within: on memory and time, and on the worker's answers."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from tools.robustness.attacks import Facts, attack, checked, libc

# Resources


@attack("memory")
def memory(facts: Facts) -> str:
    """Allocate 4 GiB."""
    return f"escaped: {len(bytearray(4 << 30)) >> 30} GiB"


@attack("memory")
def shared_memory(facts: Facts) -> str:
    """Allocate 4 GiB of shared memory."""
    return f"escaped: {len(mmap.mmap(-1, 4 << 30)) >> 30} GiB"


@attack("other processes")
def system_v(facts: Facts) -> str:
    """Allocate memory that outlives the process (System V)."""
    segment = checked(libc().shmget(0, 1 << 20, 0o1600))
    libc().shmctl(segment, 0, None)  # IPC_RMID
    return "escaped: allocated"


@attack("memory")
def raise_limits(facts: Facts) -> str:
    """Raise the limits, then allocate 4 GiB."""
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return memory(facts)


@attack("wall time")
def recursion(facts: Facts) -> str:
    """Deep recursion."""
    return recursion(facts)


@attack("wall time")
def c_recursion(facts: Facts) -> str:
    """Deep recursion on the C stack."""
    sys.setrecursionlimit(10**9)
    nested: list[Any] = []
    for _ in range(10**6):
        nested = [nested]
    return repr(nested)


@attack("wall time")
def loop(facts: Facts) -> str:
    """Infinite loop."""
    while True:
        pass


@attack("wall time")
def power(facts: Facts) -> str:
    """Huge power, which holds the interpreter's lock."""
    return str(7 ** (10**9) % 10)


@attack("wall time")
def backtrack(facts: Facts) -> str:
    """Regular expression that backtracks for ever."""
    return str(re.match("(a+)+$", "a" * 60 + "b"))


@attack("wall time")
def sleep(facts: Facts) -> str:
    """Sleep."""
    time.sleep(3600)
    return "escaped: slept"


@attack("wall time")
def ignore_signals(facts: Facts) -> str:
    """Ignore all signals, then loop."""
    for number in signal.valid_signals():
        with suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    return loop(facts)


@attack("other processes")
def alarm(facts: Facts) -> str:
    """Set an alarm for the next call."""
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    return "escaped: set"


@attack("wall time")
def read_input(facts: Facts) -> str:
    """Read standard input."""
    return f"{len(sys.stdin.read())} bytes read"


# Answers


@attack("wall time")
def print_much(facts: Facts) -> str:
    """Print a gigabyte."""
    for _ in range(1024):
        sys.stdout.write("x" * (1 << 20))
    return "printed to nowhere"


@attack("wall time")
def print_reply(facts: Facts) -> str:
    """Print a reply to standard output."""
    print('{"text": "escaped: forged"}', flush=True)
    return "printed to nowhere"


@attack("wall time")
def forge(facts: Facts) -> str:
    """Write replies to all open files."""
    for number in range(3, 64):
        with suppress(OSError):
            os.write(number, b'0 {"text": "\\"escaped: forged\\""}\n')
    return "written"


@attack("wall time")
def flood(facts: Facts) -> str:
    """Write a gigabyte to all open files."""
    for number in range(3, 64):
        with suppress(OSError):
            for _ in range(1024):
                os.write(number, bytes(1 << 20))
    return "written"


@attack("wall time")
def giant(facts: Facts) -> str:
    """Result of 100 MB."""
    return "x" * 10**8


@attack("wall time")
def cyclic(facts: Facts) -> Any:
    """Result that holds itself."""
    result: list[Any] = []
    result.append(result)
    return result


@attack("wall time")
def not_a_number(facts: Facts) -> float:
    """Result NaN."""
    return float("nan")


@attack("wall time")
def unpicklable(facts: Facts) -> Any:
    """Result that cannot be pickled."""
    return lambda: None


class _Pickle:
    def __reduce__(self) -> Any:
        return exec, ("open('escaped', 'w')",)

    def __str__(self) -> str:
        raise RuntimeError("no")


@attack("wall time")
def pickled_code(facts: Facts) -> Any:
    """Result that runs code when it is unpickled or shown."""
    return _Pickle()


@attack("wall time")
def nested(facts: Facts) -> Any:
    """Result nested 100 000 deep."""
    result: list[Any] = []
    for _ in range(100_000):
        result = [result]
    return result


class _HostileError(Exception):
    def __str__(self) -> str:
        raise SystemExit("escaped")

    __repr__ = __str__


@attack("wall time")
def hostile_error(facts: Facts) -> str:
    """Exception whose text raises SystemExit."""
    raise _HostileError


class _EndlessError(Exception):
    def __str__(self) -> str:
        return loop({})


@attack("wall time")
def endless_error(facts: Facts) -> str:
    """Exception whose text never ends."""
    raise _EndlessError


@attack("wall time")
def leave(facts: Facts) -> str:
    """Call sys.exit."""
    sys.exit(0)


@attack("wall time")
def interrupt(facts: Facts) -> str:
    """Raise KeyboardInterrupt."""
    raise KeyboardInterrupt


@attack("wall time")
def leave_at_once(facts: Facts) -> str:
    """Call os._exit."""
    os._exit(0)


@attack("wall time")
def segfault(facts: Facts) -> str:
    """Segmentation fault."""
    return str(ctypes.string_at(0))


@attack("wall time")
def abort(facts: Facts) -> str:
    """Abort."""
    os.abort()


@attack("wall time")
def close_files(facts: Facts) -> str:
    """Close all open files."""
    os.closerange(0, 64)
    return "closed"


@attack(None)
def falsify(facts: Facts) -> str:
    """Change the worker, so that later answers are false."""
    worker: Any = sys.modules["__main__"]
    worker.run = lambda *_: {"text": '"escaped: false"'}
    return "escaped: changed"
