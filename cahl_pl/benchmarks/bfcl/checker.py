"""BFCL's own code in a separate process, with limits: it evaluates text and searches model text by regular expressions."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence, Set
from keyword import iskeyword
from pathlib import Path
from typing import Any, Final

from cahl_pl.benchmarks.bfcl.data import Entry
from cahl_pl.environments.base import Environment, Session, failure
from cahl_pl.errors import ConfigError
from cahl_pl.schema import Problem, find_problems
from cahl_pl.types import Feedback, Task, ToolCall

_MAX_REPLY: Final = 16 * 2**20
_START_SECONDS: Final = 60.0


class CheckerLostError(RuntimeError):
    """Loss of the process, which had to be killed or has died: this request has no answer."""


class Checker:
    """Process with BFCL's checkers and backends, started when needed and again when it is lost.

    Args:
        folder: the package's folder.
        seconds: time limit of one request; a process that takes longer is killed.
        memory_mib: address space of the process.
    """

    def __init__(self, folder: Path, seconds: float, memory_mib: int) -> None:
        self.folder = folder
        self.seconds = seconds
        self.memory_mib = memory_mib
        self.generation = 0  # counts processes: the state of an older one is lost
        self.lost = 0
        self.network_cut_off: bool | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def check_calls(self, entry: Entry, calls: Sequence[ToolCall]) -> dict[str, Any]:
        """Run `ast_checker` on the calls of a single-turn entry; return `success` and `error`."""
        return self._verdict(
            op="ast",
            category=entry.category,
            functions=entry.functions,
            calls=[{call.name: dict(call.arguments)} for call in calls],
            answer=entry.answer,
        )

    def check_turns(self, entry: Entry, turns: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Run `multi_turn_checker` on the call strings of each turn, one call per step; return `success` and `error`."""
        return self._verdict(
            op="multi_turn",
            id=entry.id,
            category=entry.category,
            state=entry.state,
            session="check",
            turns=[[[call] for call in turn] for turn in turns],
            answer=entry.answer,
        )

    def _verdict(self, **request: Any) -> dict[str, Any]:
        try:
            reply = self.request(request)
        except CheckerLostError as error:
            return {"success": False, "error": f"checker: {error}"}
        if "error" in reply:
            return {"success": False, "error": f"checker: {reply['error']}"}
        verdict: dict[str, Any] = reply["value"]
        return verdict

    def request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the reply to a request: `value`, or `error` if BFCL's code raised.

        Raises:
            CheckerLostError: the process died or did not answer in time. The next request starts another one.
            ConfigError: the process cannot be started.
        """
        self.start()
        return self._ask(json.dumps(request).encode() + b"\n", self.seconds)

    def close(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            process, self._process, self._buffer = self._process, None, b""
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def start(self) -> None:
        """Start the process, if there is none.

        Raises:
            ConfigError: it cannot be started.
        """
        if self._process is not None:
            return
        worker = Path(__file__).with_name("worker.py")
        self._process = subprocess.Popen(
            # -I: no user packages, no environment variables; -B: nothing is written
            [sys.executable, "-I", "-B", str(worker), str(self.folder.parent), str(self.memory_mib * 2**20)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=os.sep,
            env={},
            start_new_session=True,  # Ctrl-C is handled by the run
        )
        self.generation += 1
        try:
            self.network_cut_off = bool(self._ask(b"", _START_SECONDS)["network_cut_off"])
        except CheckerLostError as error:
            raise ConfigError(
                f"the checkers of BFCL cannot be started ({error}): pip install --no-deps bfcl-eval mpmath, or give "
                "memory_mib more"
            ) from None

    def _ask(self, line: bytes, seconds: float) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            deadline = time.monotonic() + seconds
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                    raise CheckerLostError(f"no answer within {seconds:g} s")
                chunk = os.read(process.stdout.fileno(), 2**16)
                if not chunk or len(self._buffer) > _MAX_REPLY:
                    raise CheckerLostError("the process has died" if not chunk else "the answer is too long")
                self._buffer += chunk
            text, _, self._buffer = self._buffer.partition(b"\n")
            reply: dict[str, Any] = json.loads(text)
            return reply
        except (CheckerLostError, BrokenPipeError, ValueError) as error:
            self.lost += 1
            self.close()
            if isinstance(error, CheckerLostError):
                raise
            raise CheckerLostError("the process has died") from None


class Backends(Environment):
    """Sessions of multi-turn entries, each over all the turns of its entry.

    Args:
        sessions: id of a task -> session of its entry.
    """

    def __init__(self, sessions: Mapping[str, BackendSession]) -> None:
        self.sessions = sessions

    def start(self, task: Task) -> Session:
        """Return the entry's session; from now on it offers this task's tools."""
        session = self.sessions[task.id]
        session.task = task
        return session


class BackendSession(Session):
    """Backends of one entry: later calls see the changes that a call makes, in later turns too.

    The state is in the checker's process. If that is lost, the calls so far are repeated in the next one, except for the
    call that it was lost to.

    Args:
        checker: the process.
        entry: a multi-turn entry.
    """

    _numbers = itertools.count()

    def __init__(self, checker: Checker, entry: Entry) -> None:
        self.task: Task | None = None
        self.calls: list[str] = []
        self._checker = checker
        self._entry = entry
        self._names = {function["name"] for function in entry.functions}
        self._name = f"session{next(self._numbers)}"
        self._generation: int | None = None

    def call(self, call: ToolCall) -> Feedback:
        """Make the call, with the result that BFCL shows a model, error messages included.

        As in BFCL, a function is carried out even before it is offered; it counts as an unknown tool then.
        """
        assert self.task is not None
        problems = find_problems(call, self.task.tools)
        text = call_text(call, self._names)
        if text is None:
            problem = problems[0] if problems else Problem("undeclared", None, "this call cannot be made")
            return failure(problem.message, problem.cause)
        try:
            result = self._execute(text)
        except CheckerLostError as error:
            return failure(str(error), "tool")
        self.calls.append(text)
        if problems:
            return Feedback(result, problems[0].cause)
        failed = result.startswith(("Error during execution:", '{"error":'))
        return Feedback(result, "tool" if failed else None)

    def end(self) -> None:
        """Drop the backends."""
        if self._generation == self._checker.generation:
            with contextlib.suppress(CheckerLostError):
                self._checker.request({"op": "end", "session": self._name})

    def _execute(self, text: str) -> str:
        self._checker.start()
        replayed = [] if self._generation == self._checker.generation else self.calls
        reply = self._checker.request(
            {
                "op": "execute",
                "id": self._entry.id,
                "category": self._entry.category,
                "state": self._entry.state,
                "session": self._name,
                "calls": [*replayed, text],
            }
        )
        self._generation = self._checker.generation
        return f"Error during execution: {reply['error']}" if "error" in reply else str(reply["value"][-1])


def call_text(call: ToolCall, names: Set[str]) -> str | None:
    """Return the call as text that BFCL's backends evaluate; None if it must not be.

    The text has nothing but one of these names of functions, parameters that are identifiers, and values of JSON written by
    `repr`: whatever a model wrote, evaluating it calls that function, and nothing else.
    """
    if call.name not in names or not call.name.isidentifier():
        return None
    if not all(name.isidentifier() and not iskeyword(name) for name in call.arguments):
        return None
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"
