from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cahl_pl.environments import ExecutableEnvironment, SandboxedEnvironment, sandbox
from cahl_pl.errors import ConfigError
from cahl_pl.types import Feedback, Message, Task, ToolCall, ToolSpec
from tools.robustness import attack_sandbox

pytestmark = pytest.mark.filterwarnings("ignore:the sandbox cannot enforce")

ROOT = Path(__file__).resolve().parents[2]


def tool(name, parameter, kind):
    schema = {"type": "object", "properties": {parameter: {"type": kind}}, "required": [parameter]}
    return ToolSpec(name, "", schema)


TASK = Task(
    "t",
    (Message("user", "go"),),
    (
        tool("deposit", "amount", "integer"),
        tool("fail", "message", "string"),
        tool("grow", "items", "array"),
        tool("odd", "kind", "string"),
        tool("break_down", "how", "string"),
        tool("file", "text", "string"),
        tool("look", "at", "string"),
    ),
    state={"balance": 10},
)


def deposit(amount):
    return ToolCall("deposit", {"amount": amount})


def breakdown(how):
    return ToolCall("break_down", {"how": how})


def look(at):
    return ToolCall("look", {"at": at})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder on sys.path, with the module `sandbox_toys`, and the attacks of tools/."""
    folder = tmp_path_factory.mktemp("toys")
    shutil.copy(Path(__file__).with_name("sandbox_toys.py"), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def shared(folder):
    environment = SandboxedEnvironment("sandbox_toys.toolkit", call_seconds=10, max_characters=60)
    yield environment
    environment.close()


@pytest.fixture
def make(folder):
    """Makes environments."""
    made = []

    def make(**options):
        made.append(SandboxedEnvironment("sandbox_toys.toolkit", **{"call_seconds": 30, **options}))
        return made[-1]

    yield make
    for environment in made:
        environment.close()


def alive(pid):
    """Whether the process runs: it is there, and no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# The same as without a sandbox


def test_calls_run_with_coerced_arguments_and_share_the_session_state(shared):
    session = shared.start(TASK)
    assert session.call(ToolCall("deposit", {"amount": "5"})) == Feedback("15")
    assert session.call(deposit(1)) == Feedback("16")
    assert shared.start(TASK).call(deposit(1)) == Feedback("11")
    assert TASK.state == {"balance": 10}


@pytest.mark.parametrize(
    "call",
    [
        *(
            ToolCall("odd", {"kind": kind})
            for kind in (
                *("nan", "cycle", "keys", "unprintable", "none", "surrogate", "pair", "set", "long", "emoji", "quotes"),
                *("unprintable error", "recursion", "no such kind"),
            )
        ),
        ToolCall("fail", {"message": ""}),
        ToolCall("fail", {"message": "m" * 1000}),
        ToolCall("fail", {"message": '"\n\ud800' * 100}),
        ToolCall("grow", {"items": [1, None, "\ud800", {"a": [1e300]}]}),
        ToolCall("nothing", {}),
        ToolCall("deposit", {}),
        ToolCall("deposit", {"amount": 1, "state": {}}),
        ToolCall("deposit", {"amount": "many"}),
    ],
    ids=str,
)
def test_answers_are_those_of_the_executable_environment(shared, call):
    expected = ExecutableEnvironment("sandbox_toys.toolkit", max_characters=60).start(TASK).call(call)
    assert shared.start(TASK).call(call) == expected
    assert shared.restarts == 0


def test_arguments_of_the_call_stay_as_written(shared):
    call = ToolCall("grow", {"items": [1]})
    assert shared.start(TASK).call(call) == Feedback("[1, 0]")
    assert call.arguments == {"items": [1]}


def test_arguments_that_json_cannot_carry(shared):
    feedback = shared.start(TASK).call(deposit(10**5000))
    assert feedback == Feedback('{"error": "the arguments cannot be written as JSON"}', "tool")


def test_missing_functions_and_states_that_fail(shared):
    absent = Task("t7", TASK.messages, (tool("absent", "a", "string"),), state={"balance": 1})
    with pytest.raises(ValueError, match=r"task 't7' offers tools .* \['absent'\]"):
        shared.start(absent)
    with pytest.raises(ValueError, match=r"task 't': the toolkit fails on its state \(no such account\); are data"):
        shared.start(Task("t", TASK.messages, TASK.tools, state={"fail": True}))
    for state in ({"a": (1, 2)}, {1: 2}, {"a": float("nan")}, {"a": {1}}):
        with pytest.raises(ValueError, match="task 't': a sandbox's state must be JSON values"):
            shared.start(Task("t", TASK.messages, TASK.tools, state=state))


# Lost workers


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("hang", "the tool took longer than 2 s and was stopped"),
        ("exit", "the tool ended its process (exit status 3)"),
        ("crash", "the tool crashed (Segmentation fault)"),
    ],
)
def test_a_lost_worker_costs_its_call_only(make, how, message):
    environment = make(call_seconds=2)
    first, second = environment.start(TASK), environment.start(TASK)
    assert [first.call(deposit(1)).text, second.call(deposit(10)).text] == ["11", "20"]
    assert first.call(breakdown(how)) == Feedback(json.dumps({"error": message}), "tool")
    assert [second.call(deposit(10)).text, first.call(deposit(1)).text] == ["30", "12"]
    assert environment.restarts == 1


def test_a_start_that_hangs(make):
    environment = make(call_seconds=2)
    with pytest.raises(ValueError, match=r"fails on its state \(it took longer than 2 s"):
        environment.start(Task("t", TASK.messages, TASK.tools, state={"hang": True}))
    assert environment.start(TASK).call(deposit(1)) == Feedback("11")


def test_the_users_interrupt_leaves_no_answer_behind(make):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    session = make().start(TASK)
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            session.call(breakdown("sleep"))
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert session.call(deposit(1)) == Feedback("11")


def test_a_worker_that_is_killed_while_idle_costs_nothing(make):
    environment = make()
    session = environment.start(TASK)
    pid = json.loads(session.call(look("process")).text)[0]
    os.kill(pid, signal.SIGKILL)
    while alive(pid):
        time.sleep(0.01)
    assert session.call(deposit(1)) == Feedback("11")


@pytest.mark.parametrize("how", ["leak files", "leak memory"])
def test_a_worker_without_room_is_replaced(make, how):
    environment = make(memory_mib=150)
    if environment.enforced["memory"] is None:
        pytest.skip("memory is not limited here")
    leaky, other = environment.start(TASK), environment.start(TASK)
    assert leaky.call(deposit(1)) == Feedback("11")
    leaky.call(breakdown(how))
    assert environment.restarts == 0
    assert other.call(breakdown(how)).error == (None if how == "leak memory" else "tool")
    assert leaky.call(deposit(1)) == Feedback("12")
    assert environment.restarts == 2


def test_a_toolkit_that_is_gone(make, folder):
    shutil.copy(folder / "sandbox_toys.py", folder / "sandbox_gone.py")
    with_file = SandboxedEnvironment("sandbox_gone.toolkit")
    session = with_file.start(TASK)
    session.call(breakdown("exit"))
    (folder / "sandbox_gone.py").unlink()
    with pytest.raises(ConfigError, match=r"worker for toolkit 'sandbox_gone\.toolkit' does not start: No module"):
        session.call(deposit(1))
    with_file.close()


# Limits


def test_the_cpu_limit_holds_where_the_program_does_not_look(make):
    environment = make(call_seconds=0.1)
    environment.call_seconds = 600  # of the program's clock; the worker has been told 0.1
    assert "CPU time limit exceeded" in environment.start(TASK).call(breakdown("hang")).text


def test_tools_see_few_variables_and_no_torch(make, monkeypatch):
    monkeypatch.setenv("SANDBOX_SECRET", "s")
    monkeypatch.setenv("SANDBOX_SETTING", "x")
    monkeypatch.setenv("LANG", "C.UTF-8")
    session = make(variables=["SANDBOX_SETTING"]).start(TASK)
    seen = set(json.loads(session.call(look("variables")).text))
    assert {"SANDBOX_SETTING", "LANG", "HOME", "TMPDIR", "OMP_NUM_THREADS"} <= seen
    assert not seen & {"SANDBOX_SECRET", "PATH", "PYTHONPATH"}
    assert session.call(look("torch")) == Feedback("false")


def test_files_are_those_of_the_session_and_go_with_the_worker(make):
    environment = make(file_mib=1)
    first, second = environment.start(TASK), environment.start(TASK)
    assert first.call(ToolCall("file", {"text": "a"})) == Feedback('"a"')
    assert second.call(look("files")) == Feedback("[]")
    place = Path(json.loads(first.call(look("process")).text)[2])
    assert (place / "notes.txt").read_text() == "a"
    first.call(breakdown("exit"))
    assert first.call(ToolCall("file", {"text": "b"})) == Feedback('"ab"')
    assert not place.exists()
    place = Path(json.loads(first.call(look("process")).text)[2])
    del first
    gc.collect()
    environment.start(TASK)  # tells which sessions are over
    assert place.parent.is_dir()  # the worker's
    assert not place.exists()
    environment.close()
    assert not place.parent.exists()


@pytest.mark.slow
def test_directories_too_deep_for_python_are_removed(make):
    environment = make(file_mib=1)
    session = environment.start(TASK)
    place = Path(json.loads(session.call(look("process")).text)[2])
    assert session.call(breakdown("nest")) == Feedback('"done"')
    assert session.call(look("files")) == Feedback('["d"]')
    environment.close()
    assert not place.parent.exists()


def test_without_leave_to_write_no_file_can_be_made(make):
    environment = make()
    if environment.enforced["writing files"] is None:
        pytest.skip("writing files is not limited here")
    feedback = environment.start(TASK).call(ToolCall("file", {"text": "a"}))
    assert "Permission denied" in feedback.text


def test_the_end_of_the_environment_is_that_of_its_workers(make, folder):
    environment = SandboxedEnvironment("sandbox_toys.toolkit", workers=2)
    places = [json.loads(environment.start(TASK).call(look("process")).text) for _ in range(2)]
    assert places[0][0] != places[1][0]
    assert all(pid == group for pid, group, _ in places)  # so that all of the group can be killed
    assert all(alive(pid) and Path(place).is_dir() for pid, _, place in places)
    del environment
    gc.collect()
    assert not any(alive(pid) or Path(place).exists() for pid, _, place in places)


PROGRAM = """
import json, os, subprocess, sys

root, worker, folder, lacking = sys.argv[1:5]
if lacking:
    sys.path.insert(0, root)
    from tools.robustness import attack_sandbox

    attack_sandbox.without(lacking.split())
(request, ask), (answer, reply) = os.pipe(), os.pipe()
process = subprocess.Popen([sys.executable, "-I", worker, str(request), str(reply)], pass_fds=(request, reply))
limits = {"call_seconds": 60, "start_seconds": 60, "memory_bytes": 1 << 28, "file_bytes": 0, "max_characters": 100}
tools = {"toolkit": "sandbox_toys.toolkit", "file": None, "python_tools": False}
places = {**tools, "path": [folder, *sys.path], "readable": [], "folder": folder}
os.write(ask, b"1 " + json.dumps({**limits, **places, "parent": os.getpid()}).encode() + b"\\n")
start = {"session": 0, "start": {"balance": 0}, "tools": [], "drop": []}
os.write(ask, b"2 " + json.dumps(start).encode() + b"\\n")
os.write(ask, b"3 " + json.dumps({"session": 0, "tool": "break_down", "arguments": {"how": "hang"}}).encode() + b"\\n")
os.close(reply)
lines = open(answer)
print(json.dumps([process.pid, json.loads(lines.readline()[2:])["enforced"], lines.readline()]), flush=True)
"""


def run_program(folder, lacking=""):
    """A program that starts a worker, has it hang in a call, and ends."""
    arguments = [ROOT, sandbox.WORKER, folder, lacking]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_worker_does_not_outlive_the_program(folder):
    pid, _, started = run_program(folder)
    assert '"missing": []' in started
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(pid)


def test_the_worker_tells_what_it_cannot_enforce(folder, shared):
    if "Landlock" not in str(shared.enforced["reading files"]) or shared.enforced["network"] != "seccomp":
        pytest.skip("needs Landlock and libseccomp")
    _, without_landlock, _ = run_program(folder, "landlock")
    assert set(shared.enforced) - set(without_landlock) == {"wall time", "reading files", "writing files"}
    _, without_seccomp, _ = run_program(folder, "seccomp")
    expected = {"wall time", "network", "other processes", "writing files"} | (
        {"processes"} if os.geteuid() == 0 else set()
    )
    assert set(shared.enforced) - set(without_seccomp) == expected


def test_limits_that_nothing_enforces_are_named_once(make, monkeypatch):
    monkeypatch.setitem(sandbox.LIMITS, "telepathy", "a hat")
    with pytest.warns(UserWarning, match=r"the sandbox cannot enforce .*telepathy \(needs a hat\)") as caught:
        environment = make(workers=2)
    assert len(caught) == 1
    assert environment.enforced["telepathy"] is None
    assert environment.enforced["wall time"] == "kill"


# Configuration


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module.toolkit", "'no_such_module.toolkit' cannot be imported in a sandbox: No module named"),
        ("json.no_such_function", "'json.no_such_function' cannot be imported in a sandbox: module 'json' has no"),
        ("", "'' cannot be imported in a sandbox"),
        ("math.pi", "'math.pi' cannot be imported in a sandbox: it is not a function, but a float"),
        (len, "toolkit must be an import path"),
    ],
)
def test_bad_import_paths(path, message):
    with pytest.raises(ValueError, match=message):
        SandboxedEnvironment(path)


@pytest.mark.parametrize(
    "options",
    [{"workers": 0}, {"call_seconds": 0}, {"memory_mib": 0}, {"file_mib": -1}, {"max_characters": 2}],
    ids=str,
)
def test_bad_values(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        SandboxedEnvironment("sandbox_toys.toolkit", **options)


def test_an_import_that_takes_too_long(folder):
    (folder / "sandbox_slow.py").write_text("import time; time.sleep(60)")
    with pytest.raises(ValueError, match=r"the worker took longer than 0\.5 s and was stopped \(start_seconds"):
        SandboxedEnvironment("sandbox_slow.toolkit", start_seconds=0.5)


def test_modules_beside_the_toolkit_have_to_be_listed(folder, shared):
    (folder / "sandbox_beside.py").write_text("from sandbox_toys import toolkit\n")
    if shared.enforced["reading files"] is None:
        pytest.skip("reading files is not limited here")
    with pytest.raises(ValueError, match=r"sandbox_toys.*only be imported if `readable` lists it"):
        SandboxedEnvironment("sandbox_beside.toolkit")
    environment = SandboxedEnvironment("sandbox_beside.toolkit", readable=[str(folder)])
    assert environment.start(TASK).call(deposit(1)) == Feedback("11")
    environment.close()


# Attacks


@pytest.fixture(scope="module")
def arena(folder):
    options = {"call_seconds": 2, "memory_mib": 256, "file_mib": 1}
    environment = SandboxedEnvironment("tools.robustness.attack_sandbox.toolkit", **options)
    with attack_sandbox.targets() as facts:
        yield environment, facts
    environment.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, each in attack_sandbox.ATTACKS.items() if each.limit is not None])
def test_attacks(arena, name):
    environment, facts = arena
    limit = attack_sandbox.ATTACKS[name].limit
    if environment.enforced[limit] is None:
        pytest.skip(f"nothing enforces the limit {limit!r} here")
    escaped, text = attack_sandbox.attempt(environment, name, facts)
    assert not escaped, text
