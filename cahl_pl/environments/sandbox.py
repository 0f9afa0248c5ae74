"""Answers by running Python functions in worker processes with next to no rights."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cahl_pl.environments.base import Environment, MissingToolsError, Session, failure, refusal
from cahl_pl.errors import ConfigError, ToolWarning
from cahl_pl.python_tools.loading import names_tools, split_class
from cahl_pl.schema import coerce_call
from cahl_pl.types import Feedback, Task, ToolCall

WORKER = Path(__file__).with_name("sandbox_worker.py")

LIMITS = {
    "wall time": "",
    "CPU time": "POSIX",
    "memory": "Linux",
    "open files": "POSIX",
    "file size": "POSIX",
    "core dumps": "POSIX",
    "processes": "Linux with libseccomp 2, or a user other than root",
    "other processes": "Linux with libseccomp 2",
    "network": "Linux with libseccomp 2",
    "reading files": "Linux 5.13 with Landlock",
    "writing files": "Linux 6.2 with Landlock, and libseccomp 2",
    "privileges": "Linux",
    "outliving the program": "Linux",
}
"""Limits of a tool, and the requirements for enforcing them."""

VARIABLES = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")
"""Environment variables that every worker gets, besides those that tell numerical libraries to start no threads."""


class SandboxedEnvironment(Environment):
    """Environment that runs each call as a Python function in a locked-down worker process.

    A call that takes too long, crashes or uses too much is answered with the error `tool`; its
    worker is killed and replaced. Calls of a session that the lost worker had answered are repeated in the new one
    before the session continues, so tools have to be deterministic, as a function of state and arguments.

    Limits that cannot be enforced on this machine are named in one warning at the start. The sandbox does not
    prevent this anywhere: a worker runs the calls of many sessions in one interpreter, so a tool that runs a model's
    code can falsify later answers of its worker.

    Args:
        toolkit: import path of the function that makes a session's tools (`executable.Toolkit`), such as
            `"cahl_pl.toolworld.toolkit"`; or a Python file whose functions are the tools, such as `"my_tools.py"`, or a class
            of one, `"my_tools.py:Shop"` (see `PythonTools`). Only workers import it. Its tasks' states must be JSON values.
        workers: number of processes; sessions are assigned in turn. More than one helps only if several threads call.
        call_seconds: wall time limit of a call.
        memory_mib: address space that tools may take on top of that of the imported toolkit.
        file_mib: maximum size of a file that a tool may write in its session's own folder, the working directory;
            0: it may write none. The number of files is not limited.
        start_seconds: wall time limit of a worker's start, the toolkit's import included.
        max_characters: longer answers are cut and end with "...".
        readable: files and folders that tools may read besides the Python installation and the toolkit's own
            top-level package or module.
        variables: environment variables to pass on besides `VARIABLES`.

    Attributes:
        enforced: limit -> the mechanism that enforces it here, None if there is none. Its keys are `LIMITS`.

    Raises:
        ConfigError: a value is out of range, or the toolkit cannot be imported in a worker.
    """

    runs_tools = True
    tools_option = "toolkit"

    def __init__(
        self,
        toolkit: str,
        workers: int = 1,
        call_seconds: float = 5.0,
        memory_mib: int = 512,
        file_mib: int = 0,
        start_seconds: float = 120.0,
        max_characters: int = 2000,
        readable: Sequence[str] = (),
        variables: Sequence[str] = (),
    ) -> None:
        if not isinstance(toolkit, str):
            raise ConfigError(f"toolkit must be an import path such as 'package.module.function', got {toolkit!r}")
        file: str | None = None
        if names_tools(toolkit):
            path, owner = split_class(toolkit)
            if path.lower().endswith(".py"):
                file = os.path.abspath(os.path.expanduser(path))
                if not os.path.isfile(file):
                    raise ConfigError(f"toolkit names the file {path!r}, which does not exist; correct the path")
                toolkit = file if owner is None else f"{file}:{owner}"
        for name, value, least in (
            ("workers", workers, 1),
            ("call_seconds", call_seconds, 0.001),
            ("memory_mib", memory_mib, 1),
            ("file_mib", file_mib, 0),
            ("start_seconds", start_seconds, 0.001),
            ("max_characters", max_characters, 3),
        ):
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        self.tools_source = toolkit
        self.call_seconds = call_seconds
        self.max_characters = max_characters
        config = {
            "toolkit": toolkit,
            "file": file,
            "python_tools": names_tools(toolkit),
            "path": [os.path.abspath(path) for path in sys.path],
            "readable": [os.path.abspath(path) for path in readable],
            "parent": os.getpid(),
            "call_seconds": call_seconds,
            "start_seconds": start_seconds,
            "memory_bytes": memory_mib << 20,
            "file_bytes": file_mib << 20,
            "max_characters": max_characters,
        }
        environment = {name: os.environ[name] for name in (*VARIABLES, *variables) if name in os.environ}
        environment |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
        self._workers = [_Worker(config, environment) for _ in range(workers)]
        self._close = weakref.finalize(self, _stop, self._workers)
        self._sessions = itertools.count()
        for worker in self._workers:
            worker.ensure()
        found = self._workers[0].enforced
        self.enforced: Mapping[str, str | None] = {limit: found.get(limit) for limit in LIMITS}
        missing = [f"{limit} (needs {needed})" for limit, needed in LIMITS.items() if self.enforced[limit] is None]
        if missing:
            told = f"the sandbox cannot enforce all its limits here: {', '.join(missing)}"
            warnings.warn(told, ToolWarning, stacklevel=2)

    def start(self, task: Task) -> Session:
        """Return a session with fresh functions, made from the task's state.

        Raises:
            ConfigError: the toolkit has no function for a tool that the task offers, or fails on the task's state;
                the state is not made of JSON values; or a worker was lost, and a new one does not start.
        """
        number = next(self._sessions)
        worker = self._workers[number % len(self._workers)]
        dropped = worker.dropped.copy()
        del worker.dropped[: len(dropped)]
        names = [tool.name for tool in task.tools]
        try:
            text = json.dumps(
                {"session": number, "start": task.state, "tools": names, "drop": dropped}, allow_nan=False
            )
            same = json.loads(text)["start"] == task.state
        except (ValueError, TypeError, RecursionError):
            same = False
        if not same:
            raise ConfigError(f"task {task.id!r}: a sandbox's state must be JSON values (no tuples, keys all text)")
        session = _SandboxedSession(self, worker, task, number, text)
        weakref.finalize(session, worker.dropped.append, number).atexit = False
        return session

    @property
    def restarts(self) -> int:
        """Number of times that a worker has been replaced."""
        return sum(worker.generation - 1 for worker in self._workers)

    def close(self) -> None:
        """End the workers and remove their folders; happens by itself when the environment is no longer used."""
        self._close()


class _SandboxedSession(Session):
    def __init__(self, environment: SandboxedEnvironment, worker: _Worker, task: Task, number: int, start: str) -> None:
        self._environment = environment  # kept: its end would be the worker's
        self._worker = worker
        self._task = task
        self._number = number
        self._start = start
        self._answered: list[str] = []
        self._generation = 0  # of the worker process that has this session
        with worker.lock:
            try:
                reply = self._resume()
            except _LostWorkerError as error:
                reply = {"error": f"it {error}"}
        if "error" in reply:
            raise ConfigError(
                f"task {task.id!r}: the toolkit fails on its state ({_text(reply, 'error')}); are data and data.environment "
                "made for each other?"
            )
        if reply.get("missing"):
            raise MissingToolsError(
                f"task {task.id!r} offers tools that the toolkit has no function for: {reply['missing']}",
                reply["missing"],
            )
        if reply.get("shared"):
            warnings.warn(_text(reply, "shared"), ToolWarning, stacklevel=3)

    def call(self, call: ToolCall) -> Feedback:
        refused = refusal(call, self._task)
        if refused is not None:
            return refused
        arguments = dict(coerce_call(call, self._task.tools).arguments)
        try:
            request = json.dumps({"session": self._number, "tool": call.name, "arguments": arguments})
        except (ValueError, TypeError, RecursionError):
            return failure("the arguments cannot be written as JSON", "tool")
        with self._worker.lock:
            try:
                self._resume()
                reply = self._worker.ask(request, self._environment.call_seconds)
                if reply.get("worn"):  # other sessions need a process with memory and open files to spare
                    self._worker.stop()
            except _LostWorkerError as error:
                return self._cut(failure(f"the tool {error}", "tool"))
        self._answered.append(request)
        if "text" in reply:
            return self._cut(Feedback(_text(reply, "text")))
        return self._cut(failure(_text(reply, "error"), "type" if reply.get("cause") == "type" else "tool"))

    def _resume(self) -> Mapping[str, Any]:
        """Bring the session into a live worker; return the reply to its start if that was necessary."""
        worker = self._worker
        worker.ensure()
        if self._generation == worker.generation:
            return {}
        reply = worker.ask(self._start, self._environment.call_seconds)
        for request in self._answered:
            worker.ask(request, self._environment.call_seconds)
        self._generation = worker.generation
        return reply

    def _cut(self, feedback: Feedback) -> Feedback:
        most = self._environment.max_characters
        if len(feedback.text) <= most:
            return feedback
        return Feedback(feedback.text[: most - 3] + "...", feedback.error)


class _LostWorkerError(Exception):
    """Error that the worker had to be killed, or has ended; the message says how, to follow "the tool"."""


class _Worker:
    """One worker process at a time, the pipes to it, and its folder. What it writes is not trusted.

    Attributes:
        lock: lock to hold during a request.
        generation: number of processes started so far.
        dropped: finished sessions, to be reported at the next start of one.
        enforced: limit -> mechanism, as reported by the process.
    """

    def __init__(self, config: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.lock = threading.Lock()
        self.generation = 0
        self.dropped: list[int] = []
        self.enforced: dict[str, str] = {}
        self._config = config
        self._environment = environment
        # An answer whose characters are each written as two escapes of six bytes, and the rest of the reply.
        self._max_bytes = 12 * (config["max_characters"] + 1) + 10_000
        self._process: subprocess.Popen[bytes] | None = None
        self._stamp: tuple[int, int] | None = None  # of the file of tools

    def ensure(self) -> None:
        """Start the process, unless there is a live and silent one.

        Raises:
            ConfigError: it does not start, or the file of tools has changed since an earlier process read it.
        """
        # A process that ended has closed its pipe, which counts as something to read.
        if self._process is not None and not self._readable.poll(0):
            return
        self.stop()
        self._check_file()
        self._start()
        try:
            config = json.dumps({**self._config, "folder": self._folder})
            reply = self.ask(config, self._config["start_seconds"])
        except _LostWorkerError as error:
            reply = {"error": f"the worker {error}"}
        if isinstance(reply.get("enforced"), dict):
            self.enforced = {"wall time": "kill", **reply["enforced"]}
            self.generation += 1
            return
        self.stop()
        toolkit = self._config["toolkit"]
        if self.generation:
            raise ConfigError(f"the sandbox's worker for toolkit {toolkit!r} does not start: {_text(reply, 'error')}")
        raise ConfigError(
            f"toolkit {toolkit!r} cannot be imported in a sandbox: {_text(reply, 'error')} (start_seconds limits the time; "
            "what lies outside the toolkit's top-level package can only be imported if `readable` lists it)"
        )

    def ask(self, request: str, seconds: float) -> Mapping[str, Any]:
        """Return the reply to a request.

        Raises:
            _LostWorkerError: there was none in time, or none that can be read; the process has been killed.
        """
        token = secrets.token_hex(8).encode()
        try:
            line = self._exchange(token + b" " + request.encode() + b"\n", time.monotonic() + seconds)
            said, _, text = line.partition(b" ")
            reply = json.loads(text)
            if said != token or not isinstance(reply, dict):
                raise ValueError
        except TimeoutError:
            self.stop()
            raise _LostWorkerError(f"took longer than {seconds:g} s and was stopped") from None
        except OSError:  # EOFError is not one
            raise _LostWorkerError(self._ending()) from None
        except (ValueError, RecursionError):
            self.stop()
            raise _LostWorkerError("answered with something that is not a reply") from None
        except BaseException:  # such as the user's interrupt: its reply would answer the next request
            self.stop()
            raise
        return reply

    def stop(self) -> int:
        """Kill the process and its group, and remove its folder; return its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        status = process.wait()
        os.close(self._requests)
        os.close(self._replies)
        with suppress(RecursionError):
            shutil.rmtree(self._folder, ignore_errors=True)
        if os.path.exists(self._folder):  # directories nested too deeply for Python
            subprocess.run(["rm", "-rf", self._folder], check=False, stderr=subprocess.DEVNULL)
        return status

    def _check_file(self) -> None:
        """Check that the file is unchanged: calls are repeated in a new process, where other tools would answer differently."""
        file = self._config["file"]
        if file is None:
            return
        try:
            status = os.stat(file)
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read any more ({error.strerror}); put the file back") from None
        stamp = status.st_size, status.st_mtime_ns
        if self._stamp not in (None, stamp):
            raise ConfigError(f"{file}: the file has changed since its tools were first run; start again")
        self._stamp = stamp

    def _start(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="cahl-sandbox-")
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(WORKER), str(requests), str(replies)],
                cwd=self._folder,
                env={**self._environment, "HOME": self._folder, "TMPDIR": self._folder},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(requests, replies),
                start_new_session=True,  # its own process group, to be killed as a whole
            )
        finally:
            os.close(requests)
            os.close(replies)
        os.set_blocking(self._requests, False)
        os.set_blocking(self._replies, False)
        self._writable, self._readable = select.poll(), select.poll()
        self._writable.register(self._requests, select.POLLOUT)
        self._readable.register(self._replies, select.POLLIN)

    def _exchange(self, data: bytes, deadline: float) -> bytes:
        while data:
            _wait(self._writable, deadline)
            data = data[os.write(self._requests, data) :]
        received = b""
        while not received.endswith(b"\n"):
            _wait(self._readable, deadline)
            chunk = os.read(self._replies, 1 << 16)
            if not chunk:
                raise ConnectionError
            received += chunk
            if len(received) > self._max_bytes:
                raise ValueError
        return received

    def _ending(self) -> str:
        status = self.stop()
        if status == -signal.SIGKILL:  # sent by us, or by the system for lack of memory
            return "broke off the connection or was killed"
        if status < 0:
            return f"crashed ({signal.strsignal(-status)})"
        return f"ended its process (exit status {status})"


def _wait(poller: select.poll, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or not poller.poll(left * 1000):
        raise TimeoutError


def _text(reply: Mapping[str, Any], key: str) -> str:
    """Return a text of a reply, without lone surrogates."""
    return str(reply.get(key)).encode("utf-8", "replace").decode("utf-8")


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.stop()
