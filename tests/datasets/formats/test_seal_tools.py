from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets import DataError, SealToolsDataset
from cahl_pl.schema import check_tool, find_problems
from cahl_pl.types import GoldCall, Message


def tool(name: str) -> dict[str, Any]:
    return {
        "api_name": name,
        "api_description": f"{name}s",
        "parameters": {
            "n": {"type": "int", "description": "how many"},
            "s": {"type": "str", "description": "what"},
        },
        "required": ["s"],
        "responses": {},
    }


def call(name: str, responses: list[str], **parameters: Any) -> dict[str, Any]:
    return {"api": name, "parameters": parameters, "responses": responses}


NESTED = {
    "id": "dev-1",
    "query": "Do it.",
    "calling": [
        call("t1", ["API_call_0", "API_call_1"], s="a"),
        call("t2", ["API_call_2"], s="API_call_1", n="3"),
        call("t3", ["API_call_3"], s="API_call_2 response"),
    ],
}
FLAT = {
    "id": "dev-2",
    "query": "Do more.",
    "calling": [call("t9", ["API_call_0"], s="see API_call_0", n=1)] * 2,
}
TOOLS = [tool(f"t{i}") for i in range(10)]


def load(folder: Path, *rows: Any, tools: list[Any] | None = None, **options: Any) -> SealToolsDataset:
    (folder / "tool.jsonl").write_text("\n".join(json.dumps(r) for r in (TOOLS if tools is None else tools)))
    (folder / "dev.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    return SealToolsDataset(folder / "dev.jsonl", folder / "tool.jsonl", **options)


def names(dataset: SealToolsDataset, index: int = 0) -> list[str]:
    return [tool.name for tool in dataset[index].tools]


def test_rows_become_tasks(tmp_path: Path) -> None:
    dataset = load(tmp_path, NESTED, FLAT)
    nested, flat = dataset[0], dataset[1]
    assert nested.id == "dev-1"
    assert nested.messages == (Message("user", "Do it."),)
    assert nested.gold == (
        GoldCall("t1", {"s": "a"}, ["API_call_0", "API_call_1"]),
        GoldCall("t2", {"s": "API_call_1", "n": 3}, ["API_call_2"], {"s": "$1"}),
        GoldCall("t3", {"s": "API_call_2"}, ["API_call_3"], {"s": "$2"}),
    )
    assert nested.gold[1].planned.arguments == {"s": "$1", "n": 3}
    assert (nested.ordered, nested.tags) == (True, {"kind": "nested"})
    assert (flat.ordered, flat.tags) == (False, {"kind": "multiple"})
    assert flat.gold[0].references == {}
    parameters = next(tool for tool in nested.tools if tool.name == "t1").parameters
    assert parameters == {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "description": "how many"},
            "s": {"type": "string", "description": "what"},
        },
        "required": ["s"],
    }


def test_distractors_are_drawn_from_the_seed_and_the_rows_id(tmp_path: Path) -> None:
    both = load(tmp_path, NESTED, FLAT)
    assert len(names(both)) == 3 + 4
    assert set(names(both)) > {"t1", "t2", "t3"}
    assert len(names(both, 1)) == len(set(names(both, 1))) == 1 + 4
    # The same in another file, at another place.
    assert names(load(tmp_path, FLAT, NESTED), 1) == names(both)
    renamed = load(tmp_path, *({**NESTED, "id": f"dev-{i}"} for i in range(5)))
    assert len({tuple(names(renamed, i)) for i in range(5)}) == 5
    draws = {tuple(names(load(tmp_path, NESTED, seed=seed))) for seed in range(5)}
    assert len(draws) == 5
    assert any(draw[:3] != ("t1", "t2", "t3") for draw in draws)


def test_the_number_of_distractors(tmp_path: Path) -> None:
    assert sorted(names(load(tmp_path, NESTED, num_distractors=0))) == ["t1", "t2", "t3"]
    assert sorted(names(load(tmp_path, NESTED, num_distractors=7))) == [f"t{i}" for i in range(10)]
    assert len(names(load(tmp_path, NESTED, num_distractors=100))) == 10
    with pytest.raises(ValueError, match="num_distractors must be 0 or more, not -1"):
        load(tmp_path, NESTED, num_distractors=-1)


def test_contradictions_are_relaxed_or_dropped(tmp_path: Path) -> None:
    odd = {"id": "dev-3", "query": "q", "calling": [call("t1", [], n="many")]}
    relaxed = load(tmp_path, FLAT, odd)
    assert relaxed.report.relaxed == [
        (
            "dev-3",
            "gold call 1: missing required parameter 's' of t1; "
            "gold call 1: parameter 'n' of t1: 'many' is not of type 'integer'",
        )
    ]
    assert [find_problems(gold.call, relaxed[1].tools) for gold in relaxed[1].gold] == [[]]
    # The tools that all rows share are as they were.
    assert find_problems(GoldCall("t1", {}).call, load(tmp_path, NESTED)[0].tools)[0].cause == "missing"
    assert len(load(tmp_path, FLAT, odd, on_contradiction="drop")) == 1
    typo = {"id": "dev-4", "query": "q", "calling": [call("t11", [], x=1)]}
    ((name, reason),) = load(tmp_path, FLAT, typo).report.dropped
    assert (name, "no tool is named 't11'" in reason) == ("dev-4", True)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"id": 3}, "the field 'id' must be text, but is an integer"),
        ({"id": "a", "query": "q"}, "the field 'calling' is missing"),
        ({"id": "a", "query": "q", "calling": [3]}, "the field 'calling', call 1: there must be an object"),
        ({"id": "a", "query": "q", "calling": [{"api": "t1"}]}, "call 1: the field 'responses' is missing"),
        (
            {"id": "a", "query": "q", "calling": [call("t1", ["API_call_0"], s="API_call_0")]},
            "the field 'calling', call 1: the parameter 's' is API_call_0, which no earlier call returns",
        ),
    ],
)
def test_malformed_rows_are_named_with_place_and_field(tmp_path: Path, broken: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path, FLAT, broken, strict=True)
    assert str(error.value).startswith(f"{tmp_path / 'dev.jsonl'}, line 2: ")
    assert len(load(tmp_path, FLAT, broken)) == 1


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (tool("t1"), "the tool 't1' appears twice; correct the row"),
        ({**tool("u"), "required": ["x"]}, "the field 'required' must list names of declared parameters"),
        (
            {**tool("u"), "parameters": {"n": "int"}, "required": []},
            "the field 'n' must be an object, but is text",
        ),
        ({}, "the field 'parameters' is missing"),
    ],
)
def test_malformed_tools_are_always_an_error(tmp_path: Path, broken: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path, FLAT, tools=[*TOOLS, broken])
    assert str(error.value).startswith(f"{tmp_path / 'tool.jsonl'}, line 11: ")


@pytest.mark.parametrize(
    ("name", "kept", "relaxed", "kinds"),
    [
        ("dev.jsonl", 692, 8, {"single": 200, "multiple": 472, "nested": 28}),
        ("test_in_domain.jsonl", 689, 11, {"single": 200, "multiple": 470, "nested": 30}),
    ],
)
def test_real_rows(data_dir: Path, name: str, kept: int, relaxed: int, kinds: dict[str, int]) -> None:
    folder = data_dir / "sealtools"
    dataset = SealToolsDataset(folder / name, folder / "tool.jsonl", strict=True)
    report = dataset.report
    assert (len(report.kept), len(report.relaxed), len(report.dropped)) == (kept, relaxed, 0)
    tasks = [dataset[i] for i in range(len(dataset))]
    assert len(tasks) == 700
    for task in tasks:
        assert [find_problems(gold.call, task.tools) for gold in task.gold] == [[]] * len(task.gold)
        assert len(task.tools) == len({gold.name for gold in task.gold}) + 4
    assert {kind: sum(task.tags["kind"] == kind for task in tasks) for kind in kinds} == kinds


def test_real_references_and_schemas(data_dir: Path) -> None:
    folder = data_dir / "sealtools"
    dataset = SealToolsDataset(folder / "dev.jsonl", folder / "tool.jsonl")
    tasks = {dataset[i].id: dataset[i] for i in range(len(dataset))}
    timber = tasks["dev-difficult-200"].gold[2]
    assert timber.arguments == {"location": "API_call_1", "resource_type": "timber"}
    assert timber.references == {"location": "$2"}
    assert sum(len(gold.references) for task in tasks.values() for gold in task.gold) == 34
    for task in list(tasks.values())[::50]:
        for offered in task.tools:
            check_tool(offered, task.id)
