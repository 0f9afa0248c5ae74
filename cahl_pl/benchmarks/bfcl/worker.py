"""Process in which BFCL's own code runs: its checkers, and the multi-turn backends, which `eval` call strings.

It is started by its path and not as a module of the package, so that it loads nothing but `bfcl_eval`. It reads one JSON
request per line from standard input and writes one JSON reply per line to its original standard output.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import types
from typing import Any

CLONE_NEWNET, CLONE_NEWUSER, PR_SET_PDEATHSIG = 0x40000000, 0x10000000, 1


def main() -> None:
    """Set limits, load the checkers, then answer requests until standard input ends."""
    location, memory = sys.argv[1], int(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # prints of the checkers must not be taken for a reply
    network = _limit(memory)
    ast, multi_turn = _load(location)
    _reply(replies, {"network_cut_off": network})
    for line in sys.stdin:
        try:
            request = json.loads(line)
            reply = {"value": globals()["_" + request["op"]](ast, multi_turn, request)}
        except Exception as error:  # from BFCL's code on a model's text: the verdict is then "wrong"
            reply = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        _reply(replies, reply)


def _reply(replies: Any, value: dict[str, Any]) -> None:
    replies.write(json.dumps(value, default=str) + "\n")
    replies.flush()


def _limit(memory: int) -> bool:
    """Apply limits; return whether the network is out of reach."""
    limits = {"RLIMIT_AS": memory, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 64}
    for name, value in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS refuses RLIMIT_AS
            resource.setrlimit(getattr(resource, name), (value, value))
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return bool(libc.unshare(CLONE_NEWNET) == 0 or libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)


def _load(location: str) -> tuple[Any, Any]:
    """Return BFCL's AST checker and multi-turn checker, without the model handlers and their 32 packages."""
    sys.path.insert(0, location)
    stub: Any = types.ModuleType("bfcl_eval.constants.model_config")
    # the only thing that checkers need from a model: whether dots in function names were replaced for it
    stub.MODEL_CONFIG_MAPPING = collections.defaultdict(lambda: types.SimpleNamespace(underscore_to_dot=False))
    sys.modules[stub.__name__] = stub
    from bfcl_eval.eval_checker.ast_eval import ast_checker
    from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_checker

    return ast_checker, multi_turn_checker


def _ast(ast: Any, multi_turn: Any, request: dict[str, Any]) -> dict[str, Any]:
    from bfcl_eval.constants.enums import Language

    category = request["category"]
    language = {"simple_java": Language.JAVA, "simple_javascript": Language.JAVASCRIPT}.get(category, Language.PYTHON)
    verdict = ast.ast_checker(request["functions"], request["calls"], request["answer"], language, category, "model")
    return _verdict(verdict, verdict.get("error"))


def _multi_turn(ast: Any, multi_turn: Any, request: dict[str, Any]) -> dict[str, Any]:
    entry = {"id": request["id"], **request["state"]}
    try:
        verdict = multi_turn.multi_turn_checker(
            request["turns"], request["answer"], entry, request["category"], request["session"]
        )
    finally:
        _forget(request["session"])
    return _verdict(verdict, verdict.get("error_message"))


def _execute(ast: Any, multi_turn: Any, request: dict[str, Any]) -> list[str]:
    results, _ = multi_turn.execute_multi_turn_func_call(
        request["calls"],
        **request["state"],
        model_name=request["session"],
        test_entry_id=request["id"],
        long_context="long_context" in request["category"],
    )
    return list(results)


def _end(ast: Any, multi_turn: Any, request: dict[str, Any]) -> None:
    _forget(request["session"])


def _forget(session: str) -> None:
    """Drop the backends of a session, which BFCL keeps forever as globals of a module."""
    held = vars(sys.modules["bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils"])
    for name in [name for name in held if name.startswith(f"{session}_") and name.endswith("_instance")]:
        del held[name]


def _verdict(verdict: dict[str, Any], error: Any) -> dict[str, Any]:
    if verdict["valid"]:
        return {"success": True, "error": None}
    return {"success": False, "error": f"{verdict.get('error_type')}: {str(error)[:300]}"}


if __name__ == "__main__":
    main()
