"""Command line: `python -m cahl_pl VERB ...`, or `cahl-pl VERB ...`.

A verb is one module here and one line of `VERBS`. A module is imported when its verb is called, so that help appears at once.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import os
import pickle
import pkgutil
import re
import shutil
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final, NoReturn

from cahl_pl import __version__
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.errors import ConfigError, Interrupted, ToolWarning, UserError
from cahl_pl.errors.own_code import sentence_of_own_code

VERBS = {
    "fit": ("trainer:fit", "train the planner and the executor"),
    "validate": ("trainer:validate", "measure a checkpoint on data.validation"),
    "test": ("trainer:test", "measure a checkpoint on the sets and benchmarks of data.test"),
    "predict": ("trainer:predict", "plan and carry out requests with a checkpoint"),
    "ask": ("ask:run", "the same with adapters that a server has loaded"),
    "serve": ("serve:run", "a chat API over a checkpoint: agents send messages and tools, and get calls"),
    "show-prompt": ("show_prompt:main", "print what both roles read of a row or a request; loads no weights"),
    "report": ("report.page:main", "one HTML page of runs: curves, before and after, episodes"),
    "export": ("export:run", "write a checkpoint's adapters as PEFT folders, for vLLM and others"),
    "plan-memory": ("plan_memory:run", "the peak memory of a run, by part, before it is started"),
    "check-data": ("check_data:main", "which rows of a file would be taken, and why not the others"),
    "convert-data": ("convert_data:main", "write another data set in this project's format"),
    "compare": ("compare:main", "train several systems over several seeds; one table"),
    "sweep": ("sweep:main", "train every combination of some values; a table and a plot"),
    "cross-play": ("cross_play:run", "planners and executors of different checkpoints with one another"),
    "results-table": ("results_table:main", "reports of benchmarks as one Markdown table"),
    "env": ("env:main", "versions, devices and settings of this machine, for a bug report"),
}
"""Verb -> location of its function in this package, and description; the function takes the words after the verb."""

EXTRAS = {"matplotlib": "report", "starlette": "serve", "uvicorn": "serve", "llguidance": "constrained"}
"""Optional packages that verbs import, and the extra of this package that installs them."""

PATIENCE_S: Final = 4.0
"""Seconds that libraries may take to load before a notice is printed."""

HELP = """\
usage: cahl-pl VERB [OPTION...]

CAHL: a planner and an executor on one frozen base, trained by GRPO.

{verbs}

cahl-pl VERB --help says more of a verb. `-c` takes a file, or the name of a configuration that ships with the package:
{configurations}
CAHL_TRACEBACK=1 shows the traceback behind an error. Documentation: the folder docs/ of the repository.
"""


def console(words: Sequence[str] | None = None) -> None:
    """Run a verb; errors that its user can fix are one sentence, not a traceback (CAHL_TRACEBACK=1 shows it).

    Args:
        words: the command line; None: that of the process.
    """
    with reader_may_leave(), _warnings_as_sentences():
        try:
            status = _run(list(sys.argv[1:] if words is None else words))
        except Exception as error:
            sentence = _sentence(error)
            if os.environ.get("CAHL_TRACEBACK") or sentence is None:
                raise
            print(f"error: {_place(sentence)}{sentence}", file=sys.stderr)
            status = 2
        except SystemExit as error:
            interrupted = isinstance(error.__context__, KeyboardInterrupt)  # Lightning turns it into status 1
            sentence = "interrupted" if interrupted else sentence_of_own_code(error)
            if os.environ.get("CAHL_TRACEBACK") or sentence is None or isinstance(error, Interrupted):
                raise
            print(f"error: {sentence}", file=sys.stderr)  # a user's own code has ended the run, perhaps with status 0
            status = 130 if interrupted else 2
        except KeyboardInterrupt:  # before a run handles signals, and in verbs that do not
            if os.environ.get("CAHL_TRACEBACK"):
                raise
            print("error: interrupted", file=sys.stderr)
            status = 130
        if status:
            sys.exit(status)


@contextlib.contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Show warnings of tools like this package's other ones, `warning: ...`, and those of libraries as Python does."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, ToolWarning):
            print(f"warning: {message}", file=sys.stderr, flush=True)
        else:
            shown(message, category, *rest, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


class VerbParser(argparse.ArgumentParser):
    """Parser whose errors are one sentence, with the example at the start of the verb's help."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and exit with status 2."""
        missing = message.removeprefix("the following arguments are required: ")
        what = f"{self.prog} needs {missing}" if missing != message else f"{self.prog}: {message}"
        self.exit(2, f"error: {what}; for example: {self._example()}\n")

    def _example(self) -> str:
        """Return the first command of the description, in one line."""
        verb = self.prog.rpartition(" ")[2]
        found = re.search(rf"^ +python -m cahl_pl ({verb}(?:.*\\\n)*.*)$", self.description or "", re.M)
        return " ".join(["cahl-pl", *(found[1].replace("\\\n", " ").split() if found else [verb, "--help"])])


def verb_parser(verb: str, text: str, takes_configuration: bool = False) -> argparse.ArgumentParser:
    """Return the parser of a verb's own options.

    Args:
        verb: its name.
        text: text of `--help` before the options: the module's docstring.
        takes_configuration: whether unknown options belong to the configuration.
    """
    more = (
        "Every other option belongs to the configuration: `-c` with a file or a shipped name, or any key, as for `fit`."
    )
    return VerbParser(
        prog=f"cahl-pl {verb}",
        description=_filled(text),
        epilog=more if takes_configuration else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _filled(text: str) -> str:
    """Return a docstring with its prose wrapped to the screen; lists and commands, which are indented, stay unchanged."""
    width = shutil.get_terminal_size().columns - 2  # as argparse does
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(p if re.search(r"^[ -]", p, re.M) else textwrap.fill(p, width) for p in paragraphs)


def _run(words: list[str]) -> int | None:
    """Run the command line; return the exit status."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help(), end="")
        return None
    verb, *arguments = words
    if verb == "--version":
        print(f"cahl-pl {__version__}")
        return None
    if verb.startswith("-"):
        raise ConfigError(f"there is no verb before {verb}: it comes first, as in cahl-pl fit -c quickstart")
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"
        raise ConfigError(f"there is no verb {verb!r}; {hint}")
    with notice_of_loading():
        run = pkgutil.resolve_name(f"{__name__}.{VERBS[verb][0]}")
    status: int | None = run(arguments)
    return status


@contextlib.contextmanager
def notice_of_loading() -> Iterator[None]:
    """Print a notice when libraries take long to load, before which nothing of a command is checked."""

    def tell() -> None:
        print("loading PyTorch, Lightning and transformers ...", file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE_S, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _help() -> str:
    from cahl_pl.config_files import shipped_names

    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {what}" for verb, (_, what) in VERBS.items())
    whole = [name for name in shipped_names() if "/" not in name]
    configurations = f"{', '.join(whole)}, and those of ablations/, recipes/ and toolworld2/."
    return HELP.format(verbs=verbs, configurations=textwrap.fill(configurations, 116))


def _place(sentence: str) -> str:
    """Return the configuration file and line that name the file at the start of a sentence; empty if none does."""
    if (cli := sys.modules.get("cahl_pl.cli")) is None:  # no configuration was read
        return ""
    from cahl_pl.errors.class_entries import place_of

    return place_of(sentence, cli.Parser.read)


def _sentence(error: Exception) -> str | None:
    """Return the message for an error that a user can fix; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    if (own := sentence_of_own_code(error)) is not None:
        return own
    if isinstance(error, OSError) and error.filename:  # the disk, permissions, an existing file
        return f"{os.fsdecode(error.filename)}: {error.strerror}; put that right and start again"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        return f"a file cannot be written ({error.strerror}): make room, or write to another disk, and start again"
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f'{error.name} is not installed: pip install "cahl-pl[{EXTRAS[error.name]}]"'
    if (
        type(error).__name__ == "MisconfigurationException"
    ):  # from Lightning, about its own keys; not imported just for its name
        return " ".join(str(error).split())
    if isinstance(error, pickle.UnpicklingError):
        reason = str(error).strip().splitlines()[0]
        return f"the checkpoint holds more than plain values, and was not loaded ({reason})"
    return None
