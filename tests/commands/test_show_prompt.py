"""What both roles read, as text: what they share is shown once, and only the template's tokens are special."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cahl_pl.commands import console
from cahl_pl.commands.show_prompt import show, visible
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.loading import load_tokenizer
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rollout.gold import gold_plan
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import Message, Outcome, Task

TOOLS = 'def ring(bell: str) -> str:\n    """Ring a bell.\n\n    Args:\n        bell: Which one.\n    """\n    return bell\n'


@pytest.fixture(scope="module")
def builder(tiny_model):
    return PromptBuilder(load_tokenizer(PolicyConfig(model=str(tiny_model))), PromptConfig())


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch, capsys):
    """Runs the verb from an empty folder, without weights; what it prints."""
    monkeypatch.setattr(Policy, "load", lambda *args: pytest.fail("weights were loaded"))
    monkeypatch.chdir(tmp_path)

    def verb(*words):
        console(["show-prompt", "-c", "quickstart", f"--model.policy.model={tiny_model}", *words])
        return capsys.readouterr().out

    return verb


def parts_of(text):
    """Heading -> text of a section."""
    found = re.split(r"^=== (.*) ===\n", text, flags=re.M)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def test_the_sections_are_the_prompts(builder):
    task = next(t for t in map(ToolWorld("train").__getitem__, range(100)) if len(t.gold) > 1)
    (both, shared), (planner, mine), (executor, yours) = parts_of(show(builder, task)).items()
    plan = builder.planner(task)
    step = builder.executor(task, gold_plan(task)[0])

    def whole(rest):  # a section ends with a line break, and with a blank line before the next one
        return re.sub("[«»]", "", shared.removesuffix("\n\n") + rest).rstrip("\n")

    assert whole(mine) == builder.tokenizer.decode(plan).rstrip("\n")
    assert whole(yours) == builder.tokenizer.decode(step).rstrip("\n")
    count = int(re.search(r"both roles: (\d+) tokens", both)[1])
    assert plan[:count] == step[:count]
    assert plan[count] != step[count]
    assert count >= len(builder.shared(task))
    assert planner == f"planner, goes on: {len(plan) - count} tokens, {len(plan)} in all"
    assert executor.startswith(
        f"executor, sub-task 1 of {len(task.gold)} of the gold plan, goes on: {len(step) - count} "
    )


def test_only_the_templates_tokens_are_special(builder):
    task = Task("t", (Message("user", "say <|im_end|> now"),), ())
    text = show(builder, task)
    assert "say <|im_end|> now«<|im_end|>»" not in text
    assert "say <|im_end|> now" in text
    assert text.count("«<|im_start|>»user") == 1
    assert text.count("«<|im_start|>»assistant") == 2
    assert "executor, no call is right here: a sub-task without a tool, goes on" in text
    unknown = replace(task, outcome=Outcome(results=("rung",)))
    assert "executor, no gold plan is known: " in show(builder, unknown)
    assert "executor, no gold plan is known: " in show(builder, task, gold_is_known=False)
    assert visible(builder.tokenizer, []) == ""


def test_a_prompt_that_is_too_long_is_named(builder):
    task = ToolWorld("train")[0]
    size = len(builder.planner(task))
    assert f"{size} in all, more than data.rollout.max_prompt_tokens, {size - 1}" in show(builder, task, size - 1)
    assert f"planner, goes on: {size}" not in show(builder, task, size)
    assert "more than" not in show(builder, task, 10**6)


def test_a_row_and_a_request(run, tmp_path):
    assert "row 2 (from 0) of data.train, task 'train-1-2'" in run("--row", "2")
    text = run("--request", "Ring the bell twice!")
    assert text.startswith("the request, with the tools of row 0 (from 0) of data.train, task 'request'")
    assert "Ring the bell twice!" in text
    assert "no gold plan is known" in text
    (tmp_path / "my_tools.py").write_text(TOOLS)
    text = run("--request", "Ring!", "--tools", "my_tools.py")
    assert text.startswith("the request, with the tools of my_tools.py")
    assert "ring(" in text


def test_without_a_planner_there_is_one_prompt(run):
    text = run("-c", "ablations/single_level")
    (heading,) = parts_of(text)
    assert heading.startswith("executor without a planner: ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--row", "100000000"], "--row 100000000: data.train has the rows 0 to "),
        (["--request", " "], "the request is empty; write what is to be done"),
        (["--tools", "x.py"], "--tools goes with --request: a row brings its own tools"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(run, words, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*words)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {sentence}")
