"""Models that always write what a test wants: every text still goes through parsing and the environment."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from cahl_pl.parsing import format_answer, format_call, format_plan, parse_action, parse_plan
from cahl_pl.types import Feedback, Step, SubTask, ToolCall, Trajectory


def _play(task, written, environment):
    """The episode of a plan with these calls and answers; a text in place of the list is the plan itself."""
    if isinstance(written, str):
        return Trajectory(task, written, parse_plan(written))
    subtasks = [
        SubTask(f"do {w.name}", w.name, w.arguments) if isinstance(w, ToolCall) else SubTask("answer", None)
        for w in written
    ]
    text = format_plan(subtasks) if subtasks else "<plan></plan>"
    session, steps = environment.start(task), []
    for subtask, one in zip(subtasks, written, strict=True):
        output = format_call(one) if isinstance(one, ToolCall) else format_answer(one)
        action = parse_action(output)
        if action.call is not None:
            feedback = session.call(action.call)
        else:
            feedback = None if action.answer is not None else Feedback("unreadable", "parse")
        steps.append(Step(subtask, output, action, feedback))
    return Trajectory(task, text, parse_plan(text), tuple(steps))


@pytest.fixture(scope="session")
def writing():
    """Makes an `evaluate` of a function `task -> calls and answers, or a plan text`; `.tasks` keeps what was asked."""

    def make(write):
        def evaluate(tasks, environment=None):
            evaluate.tasks += tasks
            return [_play(task, write(task), environment) for task in tasks]

        evaluate.tasks = []
        return evaluate

    return make


@pytest.fixture
def server():
    """A web server of this machine: `replies` are (status, JSON value or bytes, seconds to wait), `requests` what came in."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.requests.append((self.path, dict(self.headers), body))
            status, reply, *wait = made.replies.pop(0) if len(made.replies) > 1 else made.replies[0]
            time.sleep(sum(wait))
            try:
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", reply)
                self.end_headers()
                self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode())
            except OSError:  # the other side has given up
                pass

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = SimpleNamespace(url=f"http://127.0.0.1:{http.server_port}", requests=[], replies=[])
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    http.shutdown()
    thread.join()
    http.server_close()
