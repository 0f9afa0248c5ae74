"""Gold plans and calls: as token sequences, and as what every reward must call perfect."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, pairwise

import pytest
from transformers import PreTrainedTokenizerFast

from cahl_pl.datasets import JsonlDataset, MaskedNames, RllaDataset, SealToolsDataset
from cahl_pl.datasets.convert import convert, read_source
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.parsing import format_answer, format_call, format_plan, format_turn, parse_action, parse_plan, parse_turn
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rewards.targets import assign_gold
from cahl_pl.rollout.gold import (
    executor_examples,
    gold_plan,
    gold_turns,
    planner_example,
    single_examples,
    supervised_groups,
)
from cahl_pl.toolworld import ToolWorld
from cahl_pl.toolworld.prompts import PROMPTS
from cahl_pl.types import GoldCall, Message, Outcome, Plan, Step, SubTask, Task, ToolCall, ToolSpec, Trajectory


def spec(name, description, **types):
    properties = {key: {"type": value} for key, value in types.items()}
    return ToolSpec(name, description, {"type": "object", "properties": properties, "required": list(types)})


NESTED = Task(
    "nested",
    (Message("user", "What is 2 plus 3, doubled?"),),
    (spec("add", "Add two integers. Fast.", a="integer", b="integer"), spec("double", "", x="integer")),
    (GoldCall("add", {"a": 2, "b": 3}, 5), GoldCall("double", {"x": 5}, 10, {"x": "$1"})),
    ordered=True,
)
CHAT = Task("chat", (Message("user", "Thanks!"),), NESTED.tools, answer="You are welcome.")

ADD_LINE = '{"task": "Add two integers", "tool": "add", "parameters": {"a": 2, "b": 3}}'
DOUBLE_LINE = '{"task": "Use double", "tool": "double", "parameters": {"x": "$1"}}'
ADD_CALL = '<tool_call>{"name": "add", "parameters": {"a": 2, "b": 3}}</tool_call>'
DOUBLE_CALL = '<tool_call>{"name": "double", "parameters": {"x": 5}}</tool_call>'
SHARED = (
    "<|im_start|>system\nTools:\nadd(a: integer, b: integer): Add two integers. Fast.\ndouble(x: integer): <|im_end|>\n"
    "<|im_start|>user\nWhat is 2 plus 3, doubled?"
)
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def builder(tiny_model):
    return PromptBuilder(PreTrainedTokenizerFast.from_pretrained(tiny_model), PROMPTS)


def test_the_gold_plan_of_a_nested_task(builder):
    assert gold_plan(NESTED) == (
        SubTask("Add two integers", "add", {"a": 2, "b": 3}),
        SubTask("Use double", "double", {"x": "$1"}),
    )
    prompt, completion = planner_example(builder, NESTED)
    assert builder.tokenizer.decode(prompt) == f"{SHARED}\n\nPlan{ANSWER}"
    assert builder.tokenizer.decode(completion) == f"<plan>\n{ADD_LINE}\n{DOUBLE_LINE}\n</plan><|im_end|>"


def test_the_gold_steps_of_a_nested_task(builder):
    first, second = executor_examples(builder, NESTED)
    start = f"{SHARED}\n\nStep 1: {ADD_LINE}{ANSWER}"
    assert builder.tokenizer.decode(first.prompt) == start
    assert builder.tokenizer.decode(first.completion) == f"{ADD_CALL}<|im_end|>"
    assert builder.tokenizer.decode(second.prompt) == (
        f"{start}{ADD_CALL}<|im_end|>\n<|im_start|>user\nResult: 5\n\nStep 2: {DOUBLE_LINE}{ANSWER}"
    )
    assert builder.tokenizer.decode(second.completion) == f"{DOUBLE_CALL}<|im_end|>"
    assert second.prompt[: len(first.prompt)] == first.prompt


def test_feedback_that_was_not_stored_reads_as_the_recorded_environment_writes_it(builder):
    task = Task("t", NESTED.messages, NESTED.tools, (GoldCall("add", {"a": 2, "b": 3}), GoldCall("double", {"x": 5})))
    answer = RecordedEnvironment().start(task).call(task.gold[0].call).text
    assert f"Result: {answer}\n" in builder.tokenizer.decode(executor_examples(builder, task)[1].prompt)


def test_a_task_without_gold_calls_is_answered(builder):
    assert gold_plan(CHAT) == (SubTask("Answer the user", None),)
    (example,) = executor_examples(builder, CHAT)
    assert builder.decode(example.completion) == "<answer>You are welcome.</answer>"


def test_groups_hold_one_gold_completion_each(builder):
    (group,) = supervised_groups(builder, NESTED, "planner")
    assert builder.decode(group.completion_ids[0]) == format_plan(gold_plan(NESTED))
    groups = supervised_groups(builder, NESTED, "executor")
    assert [builder.decode(group.completion_ids[0]) for group in groups] == [ADD_CALL, DOUBLE_CALL]
    assert all(group.advantages.tolist() == [1.0] for group in groups)


def gold_trajectory(task: Task, plan_text: str, outputs: list[str]) -> Trajectory:
    """The episode in which the models write these texts."""
    plan = parse_plan(plan_text)
    steps = tuple(Step(subtask, text, parse_action(text)) for subtask, text in zip(plan.subtasks, outputs, strict=True))
    return Trajectory(task, plan_text, plan, steps)


def assert_perfect(trajectory: Trajectory) -> None:
    """Each component of each reward is exactly 1, where it is defined."""
    task, plan = trajectory.task, trajectory.plan
    planner = PlannerReward().components(plan, [trajectory])
    has_values = not task.gold or any(gold.arguments for gold in task.gold)
    assert planner == {"param": 1.0 if has_values else None, "exe": 1.0}, task.id
    assert PlannerReward().total(planner) == pytest.approx(1.0, abs=1e-12), task.id
    for step, target in zip(trajectory.steps, assign_gold(plan, task), strict=True):
        executor = ExecutorReward().components(step, target, Trajectory(task, "", Plan()), 0)
        assert executor == {"form": 1.0, "syn": 1.0, "sem": 1.0}, f"{task.id}: {step.text}"


def written(task: Task) -> Trajectory:
    """The gold episode, written out and read back."""
    outputs = [format_call(gold.call) for gold in task.gold] or [format_answer(task.answer or "Done.")]
    return gold_trajectory(task, format_plan(gold_plan(task)), outputs)


def decoded(builder: PromptBuilder, task: Task) -> Trajectory:
    """The gold episode as the warm start trains on it: tokenised and decoded."""
    outputs = [builder.decode(example.completion) for example in executor_examples(builder, task)]
    return gold_trajectory(task, builder.decode(planner_example(builder, task).completion), outputs)


def assert_gold_is_read_back(trajectory: Trajectory) -> None:
    task = trajectory.task
    assert trajectory.plan.subtasks == gold_plan(task)
    assert list(trajectory.calls) == [ToolCall(gold.name, gold.arguments) for gold in task.gold]
    if not task.gold:
        assert trajectory.steps[0].action.answer


@pytest.mark.parametrize("task", [NESTED, CHAT], ids=lambda task: task.id)
def test_a_wrong_value_is_not_perfect(task):
    trajectory = written(task)
    assert_perfect(trajectory)
    text = "<tool_call>{}</tool_call>" if not task.gold else ADD_CALL.replace("2", "4")
    outputs = [text, *(step.text for step in trajectory.steps[1:])]
    with pytest.raises(AssertionError):
        assert_perfect(gold_trajectory(task, trajectory.plan_text, outputs))


def test_toolworlds_gold_is_perfect_and_survives_tokens(builder):
    for task in islice(ToolWorld("train", 50), 50):
        trajectory = decoded(builder, task)
        assert_gold_is_read_back(trajectory)
        assert_perfect(trajectory)


def rlla(folder, name):
    return RllaDataset(folder / "rlla" / name)


def seal_tools(folder, name):
    return SealToolsDataset(folder / "sealtools" / name, folder / "sealtools" / "tool.jsonl")


@pytest.mark.parametrize(
    ("load", "name", "rows"),
    [
        (rlla, "rlla_sft.json", 391),
        (rlla, "rlla_4k_test.parquet", 79),
        (seal_tools, "dev.jsonl", 700),
        (seal_tools, "test_in_domain.jsonl", 700),
    ],
)
def test_the_gold_of_every_real_row_is_perfect(data_dir, builder, load, name, rows):
    tasks = load(data_dir, name)
    assert len(tasks) == rows  # where gold breaks its own types, the schema is relaxed
    for index in range(rows):
        assert_perfect(written(tasks[index]))
    for index in range(0, rows, -(-rows // 50)):
        assert_gold_is_read_back(decoded(builder, tasks[index]))


@pytest.mark.parametrize(
    ("name", "source", "rows"),
    [
        ("api-bank", "level-1-api_processed.json", 391),
        ("api-bank", "level-2-api_processed.json", 61),
        ("api-bank", "level-3-api_processed.json", 131),
        ("api-bank-sequences", "level-3-api_processed.json", 50),
        ("api-bank-dialogues", "dialogues", 851),
    ],
)
def test_the_gold_of_every_converted_row_is_perfect(data_dir, builder, tmp_path, name, source, rows):
    folder = data_dir / "apibank"
    tools = sorted(folder.glob("level-*.json")) if name == "api-bank-dialogues" else []
    convert(read_source(name, folder / source, tools), source, tmp_path / "tasks.jsonl")
    tasks = JsonlDataset(tmp_path / "tasks.jsonl", strict=True)
    masked = MaskedNames(tasks, share=1.0)
    assert len(tasks) == rows
    for index in range(rows):
        assert_perfect(written(tasks[index]))
        assert_perfect(written(masked[index]))
    for index in range(0, rows, -(-rows // 20)):
        assert_gold_is_read_back(decoded(builder, tasks[index]))


def test_the_gold_turns_of_an_executor_without_a_planner(builder):
    first, second, last = single_examples(builder, NESTED)
    start = f"{SHARED}\n\nAct{ANSWER}"
    assert builder.tokenizer.decode(first.prompt) == start
    assert builder.tokenizer.decode(first.completion) == f"{ADD_CALL}<|im_end|>"
    later = f"{start}{ADD_CALL}<|im_end|>\n<|im_start|>user\nResult: 5\n\nAct{ANSWER}"
    assert builder.tokenizer.decode(second.prompt) == later
    assert builder.tokenizer.decode(last.prompt) == (
        f"{later}{DOUBLE_CALL}<|im_end|>\n<|im_start|>user\nResult: 10\n\nAct{ANSWER}"
    )
    assert builder.tokenizer.decode(last.completion) == "<answer>Done.</answer><|im_end|>"


def test_the_gold_turn_of_a_task_without_calls_is_its_answer(builder):
    (example,) = single_examples(builder, CHAT)
    assert example.prompt == builder.single(CHAT)
    assert builder.decode(example.completion) == "<answer>You are welcome.</answer>"


def test_toolworlds_gold_turns_extend_one_another_and_read_back(builder):
    kinds = set()
    for task in islice(ToolWorld("train", 60), 60):
        examples, turns = single_examples(builder, task), gold_turns(task)
        kinds.add(task.tags["kind"])
        assert examples[0].prompt == builder.single(task)
        for before, after in pairwise(examples):
            start = [*before.prompt, *before.completion]
            assert after.prompt[: len(start)] == start
        *made, last = [builder.decode(example.completion) for example in examples]
        assert made == [format_turn([gold.call for gold in turn]) for turn in turns]
        read = [call for text in made for call in parse_turn(text).calls]
        assert sorted(map(str, read)) == sorted(str(gold.call) for gold in task.gold)
        assert parse_turn(last).answer
        if task.tags["kind"] == "nested":
            # what was found stands in the prompt before the call that uses it
            number, parameter = next((i, p) for i, gold in enumerate(task.gold) for p in gold.references)
            value = str(task.gold[number].arguments[parameter])
            assert len(turns) > 1
            assert value in builder.decode(examples[-1].prompt[len(examples[0].prompt) :])
        if task.tags["kind"] == "parallel":
            assert [len(turn) for turn in turns] == [len(task.gold)]
    assert kinds >= {"nested", "parallel", "single", "none"}


def test_groups_without_a_planner_hold_one_gold_completion_a_turn(builder):
    groups = supervised_groups(builder, NESTED, "executor", single_level=True)
    assert [builder.decode(group.completion_ids[0]) for group in groups] == [
        ADD_CALL,
        DOUBLE_CALL,
        "<answer>Done.</answer>",
    ]
    assert [group.prompt_ids.tolist() for group in groups] == [e.prompt for e in single_examples(builder, NESTED)]


@pytest.mark.parametrize("single_level", [False, True])
@pytest.mark.parametrize("role", ["planner", "executor"])
def test_a_task_that_only_says_its_outcome_has_nothing_to_be_imitated(builder, role, single_level):
    untraced = replace(NESTED, gold=(), outcome=Outcome((10,)))
    assert supervised_groups(builder, untraced, role, single_level) == []
    changing = replace(NESTED, gold=(), outcome=Outcome(state={}))
    assert supervised_groups(builder, changing, role, single_level) == []
    # gold calls are imitated whatever else is known, and where no tool is needed there is an answer
    assert supervised_groups(builder, replace(NESTED, outcome=Outcome((10,))), role, single_level)
    assert supervised_groups(builder, replace(CHAT, outcome=Outcome()), role, single_level)
