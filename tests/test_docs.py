"""What README and docs tell to type is typed: each command runs, small, or is at least read by the program that it starts.

A page's code blocks are one story. Commands and Python run in its order, in this process, in a folder that holds `configs/`,
`tools/`, a finished run and the page's own files: blocks with `title="FILE"`, or that begin with `# FILE`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cahl_pl.cli import CAHLCLI, main
from cahl_pl.commands import VERBS, console
from cahl_pl.config_files import find_config
from cahl_pl.datasets import JsonlDataset
from tests.parsed_only import PARSED_ONLY

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path.name: path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}

STAND_INS = {
    ("README.md", "rlla_4k/train.parquet"): "rlla.json",
    ("recipes.md", "rlla_4k/train.parquet"): "rlla.json",
    ("report.md", "--cross-play runs/cross_play"): "--cross-play runs/played",
    ("troubleshooting.md", "FILE"): "rlla.json",
    ("walkthrough.md", '"cahl_pl/toolworld/model"'): '"tiny"',
    ("walkthrough.md", "step-000060.ckpt"): "step-000002.ckpt",
    ("your-data.md", "FORMAT INPUT"): "rlla rlla.json",
    ("your-data.md", "tasks.jsonl"): "trip.jsonl",
}
"""(page, what stands in its commands) -> what they get instead."""

FLAGS = {
    "compare": ["--table"],  # runs nothing, reads what is there
    "cross-play": ["--tasks", "1"],
    "tools.make.config_reference": ["--check"],
    "tools.quality.measure_replanning": ["--tasks", "2"],
}
"""What makes the run of a verb or a tool small. Those that take the keys of a configuration get `small` as well."""

TAKES_KEYS = ("cross-play", "export", "plan-memory", "show-prompt", "tools.quality.measure_replanning")
TRAINER = ("fit", "validate", "test", "predict")
OLD = ("log.md", "python tools/")
"""Where commands of their day stand that are verbs, or elsewhere in tools/, by now."""

OPTIONS_OF = {"benchmarks.md": ["test", "-c", "configs/bamboogle.yaml"]}
"""Page -> the command that a block of nothing but options belongs to."""

PROGRAMS = r"(?:python3?|cahl-pl|pip|pytest|ruff|mypy|make|mkdocs|tensorboard|torchrun)"
COMMAND = re.compile(rf"(?:[A-Z_]+=|(?:\S+/bin/)?{PROGRAMS}(?= ))")
INLINE = re.compile(r"(?<!`)`((?:python3?|pytest|make|pip|mkdocs) [^`]+)`(?!`)")


class ParsedError(BaseException):  # an Exception would be told in a sentence, as what a user's own code raises
    """The arguments have been read, and nothing is to be done with them."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str | None
    text: str


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = re.findall(r"^```(\w*)([^\n]*)\n(.*?)^```", PAGES[page].read_text(encoding="utf-8"), re.M | re.S)
    blocks = []
    for language, rest, text in found:
        title = re.search(r'title="([^"]+)"', rest) or re.match(r"# ([\w-]+\.\w+)\b", text)
        blocks.append(Block(language, title[1] if title else None, text))
    return blocks


def commands_in(text: str) -> list[str]:
    """The commands of a block: all of its lines, or those after `$ ` where output stands between; [] of other text."""
    text = text.replace("\\\n", " ")
    console = bool(re.search(r"^\$ ", text, re.M))
    if console:
        text = "\n".join(re.findall(r"^\$ (.*)", text, re.M))
    elif not COMMAND.match(text):
        assert not re.search(r"^(?:[A-Z_]+=\S+ )*(?:\S+/bin/)?python", text, re.M), (
            "commands and other text in one block"
        )
        return []
    commands, begun = [], ""
    for line in text.splitlines():
        begun += line
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # a quotation that goes on in the next line
            begun += "\n"
            continue
        if words:
            assert COMMAND.match(begun), f"not known as a command: {begun}"
            commands += re.split(r" && ", begun)
        begun = ""
    return [re.sub(r"\s+", " ", command).strip() if "\n" not in command else command for command in commands]


def story(page: str) -> list[str]:
    """The commands of a page in order, those within sentences among them, and its Python as `python -c`."""
    text = PAGES[page].read_text(encoding="utf-8")
    pieces = re.split(r"^(```\w*[^\n]*\n.*?^```)", text, flags=re.M | re.S)
    commands: list[str] = []
    for piece in pieces:
        if piece.startswith("```python"):
            commands.append(f"python -c {shlex.quote(piece.split(chr(10), 1)[1].removesuffix('```'))}")
        elif piece.startswith("```"):
            commands += commands_in(piece.split("\n", 1)[1].removesuffix("```"))
        else:
            commands += [re.sub(r"\s+", " ", command) for command in INLINE.findall(piece)]
    return commands


def words_of(command: str, variables: list[str], folder: Path) -> list[str]:
    """The words of a command, as a shell makes them; programs within `$(...)` are not started."""
    script = f"{'; '.join(variables)}\nprintf '%s\\0' {command}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env={"PATH": ""}, capture_output=True, text=True, executable="/bin/bash"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1]


def small(words: list[str], model: Path) -> list[str]:
    """Overrides that make a configuration's run small; those of parts that it does not have are left out."""
    given = [Path(b) for a, b in itertools.pairwise(words) if a in ("-c", "--config")]
    data: dict = {}
    for file in given:
        content = yaml.safe_load(Path(find_config(str(file))).read_text())
        data |= content.get("data", {})  # test sets are replaced as a whole, as by the CLI
    values = {
        "trainer.accelerator": "cpu",
        "trainer.devices": "1",
        "trainer.strategy": "auto",
        "trainer.max_steps": "4" if "last" in words else "2",
        "model.policy.model": str(model),
        "model.policy.quantization": "none",
        "model.policy.dtype": "float32",
        "model.policy.lora_rank": "2",
        "data.tasks_per_round": "2",
        "data.rollout.planner.max_new_tokens": "4",
        "data.rollout.executor.max_new_tokens": "4",
    }
    if "RllaDataset" in data["train"]["class_path"]:
        values["data.train.init_args.path"] = "rlla.json"
    for name, test in data.get("test", {}).items():
        if test["class_path"].endswith(".ToolWorld"):
            values[f"data.test.{name}.init_args.size"] = "2"
    return [f"--{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="module")
def finished_run(tiny_model, tmp_path_factory) -> Path:
    """The folder of a quickstart run of two steps."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["cahl_pl"])
        (folder / "configs").symlink_to(ROOT / "configs")
        words = ["fit", "-c", "configs/quickstart.yaml"]
        main([*words, *small(words, tiny_model)])
    return folder / "runs" / "quickstart" / "version_0"


@pytest.fixture
def workplace(finished_run, tiny_model, rlla_file, tmp_path, monkeypatch) -> Path:
    """Where the commands run: beside the repository's folders and the runs that pages name."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("cahl_pl", "configs", "docs", "tests", "tools"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("quickstart", "systems/joint-0", "systems/toolrl-0"):
        shutil.copytree(finished_run, folder / "runs" / name / "version_0")
    checkpoints = folder / "runs" / "quickstart" / "version_0" / "checkpoints"
    for step in (20, 40, 60):
        shutil.copy(checkpoints / "step-000002.ckpt", checkpoints / f"step-{step:06d}.ckpt")
    shutil.copy(rlla_file, folder / "rlla.json")
    (folder / "tiny").symlink_to(tiny_model)
    (folder / "runs" / "played").mkdir()
    pairs = {f"{a} {b}": 0.5 for a in ("start", "step-000002") for b in ("start", "step-000002")}
    played = {"checkpoints": ["step-000002.ckpt"], "success": pairs, "tasks": 1, "test_set": "test"}
    (folder / "runs" / "played" / "cross_play.json").write_text(json.dumps(played))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(ROOT))
    return folder


@pytest.fixture
def start(workplace, tiny_model, qwen, monkeypatch):
    """Runs the words of a command, or only has them read."""

    def cahl_pl(words: list[str], parsed_only: bool) -> None:
        monkeypatch.setattr(sys, "argv", ["cahl_pl"])
        if parsed_only:
            only_read(words, monkeypatch)
        elif words[-1] == "--print_config":
            with pytest.raises(SystemExit, match="0"):
                main([*words[:-1], *small(words, tiny_model), words[-1]])
        else:
            main([*words, *small(words, tiny_model)])

    def program(name: str, words: list[str], parsed_only: bool) -> None:
        if name in TAKES_KEYS:
            words = [*words, *small(words, Path(qwen) if name == "plan-memory" else tiny_model)]
        words = [*words, *([] if parsed_only else FLAGS.get(name, []))]
        monkeypatch.setattr(sys, "argv", [name, *words])

        def run() -> None:
            if name in VERBS:
                console([name, *words])
            else:
                monkeypatch.delitem(sys.modules, name, raising=False)  # another test may have imported it
                runpy.run_module(name, run_name="__main__")

        if not parsed_only:
            with suppress_success():
                run()
            return
        parse, left = argparse.ArgumentParser.parse_known_args, words[words.index("--") + 1 :] if "--" in words else []
        with monkeypatch.context() as patch:
            patch.setattr(
                argparse.ArgumentParser, "parse_known_args", lambda *a, **k: stop(left.extend(parse(*a, **k)[1]))
            )
            try:
                run()
            except ParsedError:
                pass
            except ModuleNotFoundError:  # of a program that is not installed for tests: at least the options are there
                source = (ROOT / f"{name.replace('.', '/')}.py").read_text()
                assert all(f'"{word}"' in source for word in words if word.startswith("--"))
            else:
                pytest.fail("the arguments have not been read")
        if left:  # what is none of the program's belongs to the configuration
            own = [] if "-c" in left else words[words.index("-c") :][:2] if "-c" in words else []
            only_read(["fit", *own, *left], monkeypatch)

    def begin(words: list[str], parsed_only: bool) -> None:
        while re.match(r"[A-Z_]+=", words[0]):
            monkeypatch.setenv(*words.pop(0).split("=", 1))
        for word in words:
            for file in re.findall(r"(?:configs|tools|tests)/[\w/.]+\.\w+", word):
                assert (ROOT / file).is_file(), f"there is no {file}"
        match words:
            case ["python", "-m", "cahl_pl"] | ["python", "-m", "cahl_pl", *_, "--help"]:
                console(words[3:])
            case ["python", "-m", "cahl_pl", verb, *rest] | ["cahl-pl", verb, *rest] if verb not in TRAINER:
                program(verb, rest, parsed_only)
            case ["python", "-m", "cahl_pl", *rest] | ["cahl-pl", *rest]:
                cahl_pl(rest, parsed_only)
            case ["python", "-m", "pytest", *rest] | ["pytest", *rest]:
                select(rest)
            case ["python", "-m", "timeit", *rest] if parsed_only:
                for code in rest[rest.index("-s") + 1 :]:
                    compile(code, "timeit", "exec")
            case ["python", "-c", code]:
                exec(compile(code, "-c", "exec"), {"__name__": "example"})
            case ["python", "-m", "vllm.entrypoints.openai.api_server", *_] if parsed_only:
                pass
            case ["python", "-m", name, *rest] if name.startswith("tools."):
                program(name, rest, parsed_only)
            case ["torchrun", *rest] if parsed_only:
                cahl_pl(rest[rest.index("cahl_pl") + 1 :], True)
            case ["make", *targets]:
                for target in (word for word in targets if "=" not in word):
                    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target
            case ["pip", "install", *rest] | ["python", "-m", "pip", "install", *rest]:
                for extra in re.findall(r"(?:cahl-pl|\.)\[(\w+)\]", " ".join(rest)):
                    assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.M), extra
            case ["mkdocs", *rest]:
                assert (ROOT / rest[rest.index("-f") + 1]).is_file()
            case ["tensorboard" | "ruff" | "mypy", *_] | ["python3", "-m", "venv", _]:
                pass
            case _:
                pytest.fail(f"no test knows this command: {shlex.join(words)}")

    return begin


def stop(*_: object) -> None:
    """In place of what comes after reading."""
    raise ParsedError


def only_read(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `python -m cahl_pl` read these words, and build nothing."""
    monkeypatch.setattr(sys, "argv", ["cahl_pl"])
    with monkeypatch.context() as patch:
        patch.setattr(CAHLCLI, "before_instantiate_classes", stop)
        with pytest.raises(ParsedError):
            main(words)


@contextmanager
def suppress_success() -> Iterator[None]:
    """Lets a program end itself, if it reports no error."""
    try:
        yield
    except SystemExit as end:
        if end.code:
            raise


def select(words: list[str]) -> None:
    """Every file of a pytest command has tests, and every name of its -k expression is part of one's."""
    paths = [ROOT / word for word in words if word.startswith("tests")] or [ROOT / "tests"]
    files = [file for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
    names = [name for file in files for name in (file.name, *re.findall(r"^def (test_\w+)", file.read_text(), re.M))]
    assert len(names) > len(files)
    if "-k" in words:
        expression = words[words.index("-k") + 1]
        assert not re.search(r"\b(and|not)\b|[()]", expression), "only alternatives are understood here"
        for part in expression.split(" or "):
            assert any(part in name for name in names), f"-k {part} selects nothing"


@pytest.mark.parametrize("page", [page for page in PAGES if story(page) or blocks_of(page)])
def test_the_commands_of(page, workplace, start, capsys):
    for block in blocks_of(page):
        if block.title and (ROOT / block.title).is_file():
            assert block.text in (ROOT / block.title).read_text(), f"{block.title} is not as shown"
        elif block.title:
            Path(block.title).write_text(block.text)
    if page == "your-data.md":
        Path("trip.jsonl").write_text(json.dumps(json.loads(blocks_of(page)[0].text)))
    reasons = {begun for name, begun in PARSED_ONLY if name == page}
    variables = ["CKPT=runs/quickstart/version_0/checkpoints/step-000060.ckpt"]
    done = set()
    for command in story(page):
        command = re.sub(r"^\S+/bin/", "", command)
        if page == OLD[0] and command.startswith(OLD[1]):
            continue
        parsed_only = any(command.startswith(begun) for begun in reasons)
        for (name, old), new in STAND_INS.items():
            if name == page and not parsed_only:
                command = re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, command)
        if re.fullmatch(r"(?:[A-Z_]+=[^\s;]+(?:; )?)+", command):
            variables.append(command)
            continue
        words = words_of(command, variables, workplace)
        if tuple(words) in done or words == ["python", "-m", "cahl_pl", "fit"]:  # only the program's name
            continue
        done.add(tuple(words))
        try:
            start(words, parsed_only)
        except (Exception, SystemExit, pytest.fail.Exception) as error:
            raise AssertionError(f"{page}: {command}\n{type(error).__name__}: {error}") from error
    if page == "README.md":
        assert Path("adapters/planner/adapter_model.safetensors").is_file()
        assert "going on from" in capsys.readouterr().out


def test_what_is_only_parsed_is_there():
    for page, begun in PARSED_ONLY:
        assert any(re.sub(r"^\S+/bin/", "", command).startswith(begun) for command in story(page)), (page, begun)
    for page, old in STAND_INS:
        assert any(old in command for command in story(page)), (page, old)


CODE = [(page, i) for page in PAGES for i, b in enumerate(blocks_of(page)) if b.language in ("yaml", "json")]


@pytest.mark.parametrize(("page", "number"), CODE, ids=[f"{page}-{number}" for page, number in CODE])
def test_the_block_of(page, number, workplace, monkeypatch):
    block = blocks_of(page)[number]
    if block.language == "yaml":
        Path("block.yaml").write_text(block.text)
        only_read(["fit", "-c", "configs/quickstart.yaml", "-c", "block.yaml"], monkeypatch)
    elif block.title:
        assert all(isinstance(json.loads(line), (str, dict)) for line in block.text.splitlines())
    else:
        Path("task.jsonl").write_text(json.dumps(json.loads(block.text)))
        assert len(JsonlDataset("task.jsonl")) == 1


@pytest.mark.parametrize("page", OPTIONS_OF)
def test_blocks_of_options_are_read(page, workplace, monkeypatch):
    (block,) = [block for block in blocks_of(page) if block.text.startswith("--")]
    only_read([*OPTIONS_OF[page], *shlex.split(block.text.replace("\\\n", " "))], monkeypatch)
