"""Configurations that cannot be read, or can and do not mean what they say: one sentence with file and line."""

from __future__ import annotations

import re

import pytest

from cahl_pl.errors.options import fault_of_mapping


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"data: \xff", "cannot be read: .*not UTF-8; convert .* to UTF-8.*"),
        (b"data: [1", r", line 1: the YAML cannot be read \(.*\): keys of one group .* a bracket, is closed"),
        (b"data:\n\tseed: 1", "cannot be read: .*indent with spaces, not with tabs"),
        (b"data:\n  seed: 1\n  seed: 2", ", line 3: the key 'seed' stands in line 2 already: leave one of them"),
        (b"data: {seed: 1}\nmodel:\n  planner:\n    lr:1", ", line 4: write a space behind 'lr:'"),
        (b"", "holds no keys: write KEY: VALUE lines, or leave it out"),
        (b"data:\nmodel: {}", ", line 1: there is nothing below 'data': indent the keys that belong to it, or leave it out"),
        (b"model: {}\ntrainer: null", ", line 2: there is nothing below 'trainer': indent the keys"),
        (b"- data", "holds no keys: .*"),
        (b"model:\n  planner: {lr: 0,001}", ", line 2: '001' is no key: a key is a name, and a number is written with a point"),
        (b"data:\n  tasks_per_round = 2", ", line 1: data has keys of its own, and 'tasks_per_round = 2' is none: write KEY: "),
        (b"data: {~: 1}", ", line 1: '~' is no key: a key is a name"),
        (b"data:\n  train: !!python/object/apply:os.system [ls]", r", line 2: a tag \(!NAME\) stands before the value"),
        (b"data: {seed: 1}\n---\ndata: {seed: 2}", r", line 2: a second document begins here \(---\): write one"),
    ],
)
def test_a_broken_configuration_file_is_named(fail, tmp_path, content, reason):
    other = tmp_path / "other.yaml"
    other.write_bytes(content)
    assert re.fullmatch(f"error: the configuration {other} ?{reason}.*", fail("-c", str(other)))


@pytest.mark.parametrize("value", ["[4, 4]", "3", "[{planner_group_size: 4}]"])
@pytest.mark.parametrize(
    "key", ["data.rollout", "data.prompts", "data.inference", "model.policy", "model.grpo", "model.planner"]
)
def test_what_has_keys_of_its_own_is_no_list_and_no_number(fail, tmp_path, key, value):
    room, part = key.split(".")
    other = tmp_path / "other.yaml"
    other.write_text(f"{room}:\n  {part}: {value}\n")
    said = rf"{key} has keys of its own, such as \w+: write them below it"
    assert re.fullmatch(f"error: {other}, line 2: {said}", fail("-c", str(other)))
    assert re.match(f"error: .*{key}", fail(f"--{key}={value}"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("  train:\n    class_path: {c}\n  init_args: {{path: x.jsonl}}", "line 4: init_args stands beside 'train': indent it"),
        ("  train:\n    class_path: {c}\n    path: x.jsonl", "line 4: 'path' stands beside class_path, and an option of a"),
        ("  train:\n    class_path: {c}\n    init_args:\n    path: x.jsonl", "line 5: 'path' stands beside class_path"),
        ("  train:\n    class_pth: {c}", "line 3: there is no 'class_pth' of a class; did you mean class_path?"),
        ("  train:\n    class_path: {c}\n    init_arg: {{path: x}}", "line 4: there is no 'init_arg' of a class; did you mean"),
        ("  train: {{class_path: 5}}", "line 2: class_path takes the import path of a class, MODULE.CLASS, and '5' is none"),
        ("  train: {{class_path: ''}}", "line 2: class_path takes the import path of a class, MODULE.CLASS, and '' is none"),
        ("  train:\n    class_path: {c}\n    init_args: [x.jsonl]", "line 4: init_args takes the options of {c}: write KEY: "),
        ("  engine:\n    - class_path: {c}\n    - init_args: {{a: 1}}", "line 4: init_args is an entry of the list by itself"),
    ],
)  # fmt: skip
def test_options_of_a_class_in_the_wrong_place_are_told(fail, tmp_path, content, said):
    other = tmp_path / "other.yaml"
    other.write_text("data:\n" + content.format(c="cahl_pl.datasets.JsonlDataset"))
    said = said.format(c="cahl_pl.datasets.JsonlDataset")
    assert fail("-c", str(other)).startswith(f"error: the configuration {other}, {said}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("cahl_pl.datasets.JsonlDatset", "the module cahl_pl.datasets has no class 'JsonlDatset'; did you mean {right}?"),
        ("cahl_pl.dataset.JsonlDataset", "there is no class cahl_pl.dataset.JsonlDataset; did you mean {right}?"),
        ("cahl_pl.JsonlDataset", "the module cahl_pl has no class 'JsonlDataset'; it has "),
        ("my_own_data.Rows", "there is no module 'my_own_data' for the class my_own_data.Rows: install its package, or put"),
        ("cahl_pl.callbacks.Checkpoints", "cahl_pl.callbacks.Checkpoints is no TaskSource: name a class that is derived"),
    ],
)  # fmt: skip
def test_a_misspelt_class_is_told_with_its_own_line(fail, tmp_path, given, said):
    other = tmp_path / "other.yaml"
    other.write_text(f"data:\n  seed: 1\n  train:\n    # mine\n    class_path: {given}\n")
    right = said.format(right="cahl_pl.datasets.JsonlDataset")
    assert fail("-c", str(other)).startswith(f"error: {other}, line 5: data.train: {right}")


def test_a_file_that_is_not_there_is_told_with_the_line_that_names_it(fail, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(
        "data:\n  train:\n    class_path: cahl_pl.datasets.JsonlDataset\n    init_args:\n      path: rowz.jsonl\n"
    )
    assert fail("-c", str(other)).startswith(f"error: {other}, line 5: rowz.jsonl: there is no such file; ")
    # of a file that the command line names, nothing is said
    train = ("--data.train", "cahl_pl.datasets.JsonlDataset", "--data.train.path", "other.jsonl")
    assert fail(*train).startswith("error: other.jsonl: there is no such file; ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("data:\n  rollout:\n    planner_group_size: 4\n   executor_group_size: 2\n", 4),
        ("data:\n  a: [1, 2\n  b: 3\n", 3),
    ],
)
def test_yaml_that_cannot_be_read_is_told_with_its_line(fail, tmp_path, text, line):
    other = tmp_path / "other.yaml"
    other.write_text(text)
    said = fail("-c", str(other))
    assert said.startswith(f"error: the configuration {other}, line {line}: the YAML cannot be read (")
    assert "unicode string" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: &d\n  train: *d\n", ", line 1: what is anchored here (&NAME) holds itself by an alias (*NAME): write out what"),
        ("a: 1\ntrainer:\n  callbacks: &c\n    - *c\n", ", line 3: what is anchored here (&NAME) holds itself by an alias"),
        ("a: &a [x, x, x]\nb: &b {c: *a, d: &e [*a, *e]}\n", ", line 2: what is anchored here (&NAME) holds itself by an"),
        (
            "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("zabcdef", "abcdefg", strict=True)),
            ", its aliases (*NAME) stand for 6,053,453 values, and 100,000 are the most: write out what is meant",
        ),
    ],
)
def test_aliases_that_hold_themselves_or_stand_for_too_much(fail, tmp_path, text, said):
    other = tmp_path / "other.yaml"
    other.write_text(text if "z" not in text else "z: &z x\n" + text)
    assert fail("-c", str(other)).startswith(f"error: the configuration {other}{said}")


def test_aliases_as_they_are_meant_pass(config, build, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("model:\n  planner: &rates {lr: 0.25}\n  executor: *rates\n")
    assert build("-c", str(other)).model.optimizer_config["executor"].lr == 0.25


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("key", ["train", "validation"])
def test_a_bare_path_in_the_place_of_a_class_is_told_with_what_to_write(fail, tmp_path, monkeypatch, key, exists):
    monkeypatch.chdir(tmp_path)
    if exists:
        (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "other.yaml").write_text(f"data:\n  {key}: rows.jsonl\n")
    said = (
        f"--data.{key} takes the import path of a class, such as cahl_pl.datasets.JsonlDataset, and 'rows.jsonl' is none; what "
        f"its class reads is an option of it: --data.{key} cahl_pl.datasets.JsonlDataset --data.{key}.path rows.jsonl, or in "
        f"YAML {key}: {{class_path: cahl_pl.datasets.JsonlDataset, init_args: {{path: rows.jsonl}}}}"
    )
    assert fail("-c", "other.yaml") == f"error: the configuration other.yaml, line 2: {said}"
    assert fail(f"--data.{key}", "rows.jsonl") == f"error: {said}"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("{class_path: cahl_pl.datasets.JsonlDataset, init_args: {path: rows.jsonl}}", "one class"),
        ("[{class_path: cahl_pl.datasets.JsonlDataset, init_args: {path: rows.jsonl}}]", "a list"),
        ("rows.jsonl", "'rows.jsonl'"),
        ("5", "'5'"),
    ],
)
def test_test_sets_have_names(fail, tmp_path, value, what):
    other = tmp_path / "other.yaml"
    other.write_text(f"data:\n  test: {value}\n")
    said = (
        f"data.test is {what}, and takes named sets: write a name above the class, such as test: {{mine: {{class_path: "
        "cahl_pl.datasets.JsonlDataset, init_args: {path: rows.jsonl}}}"
    )
    assert fail("-c", str(other)) == f"error: the configuration {other}, line 2: {said}"
    if not value.startswith("{"):
        assert fail("--data.test", value) == f"error: {said}"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lora_rank", "0", "is 0, so that adapters would change nothing: give 1 or more"),
        ("lora_rank", "-3", "is -3, so that adapters would change nothing: give 1 or more"),
        ("lora_alpha", "0", "is 0, so that adapters would change nothing: give 1 or more"),
        ("prefix_cache_tokens", "-1", "is -1: give 0 or more"),
        ("model", "", "is blank: give a hub id or a folder, or `toolworld`"),
        ("lora_targets", "[]", "names nothing: give all-linear, or names of modules"),
        ("adapters", "nowhere", "names 'nowhere', which does not exist: give a folder that `python -m cahl_pl export "),
    ],
)
def test_values_of_the_policy_that_cannot_be(fail, key, value, said):
    assert fail(f"--model.policy.{key}={value}").startswith(f"error: model.policy.{key} {said}")


TRAIN = "data.train"
EXAMPLE = "such as cahl_pl.datasets.JsonlDataset"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (TRAIN, "cahl_pl.toolworld.toolkit", f"{TRAIN}: cahl_pl.toolworld.toolkit is no TaskSource: name a class that"),
        (TRAIN, "cahl_pl.toolworld", f"{TRAIN}: cahl_pl.toolworld is no TaskSource: name a class"),
        (TRAIN, "cahl_pl.schedules.Ratio", f"{TRAIN}: cahl_pl.schedules.Ratio is no TaskSource: name a class that is derived"),
        (TRAIN, "cahl_pl.datasets.TaskSource", f"{TRAIN}: cahl_pl.datasets.TaskSource is abstract: name a class that"),
        (TRAIN, "[a, b]", f"--{TRAIN} takes the import path of a class, {EXAMPLE}, and \"['a', 'b']\" is none"),
        (TRAIN, "5", f"--{TRAIN} takes the import path of a class, {EXAMPLE}, and '5' is none"),
        (TRAIN, "cahl_pl.toolworld.ToolWorld(size=3)", f"--{TRAIN} takes the import path of a class, {EXAMPLE}, and 'cahl_pl."),
        ("data.schedule", "{class_path: 'mine.py:Mine'}", "--data.schedule takes the import path of a class"),
    ],
)  # fmt: skip
def test_what_is_no_class_of_the_kind_is_told_with_one_that_is(fail, tmp_path, key, value, said):
    other = tmp_path / "other.yaml"
    other.write_text(f"data:\n  {key.removeprefix('data.')}: {value}\n")
    assert fail("-c", str(other)).startswith(f"error: {other}, line 2: {said}")


def test_keys_of_an_option_of_a_class_may_be_numbers():
    weights = "weights: {0: {form: 1.0}, 30: {exact: 1.0}}"
    assert fault_of_mapping(f"data: {{turn_reward: {{class_path: a.B, init_args: {{{weights}}}}}}}") is None
    assert fault_of_mapping(f"data: {{turn_reward: {{{weights}}}}}") is not None


def test_a_key_with_a_hyphen_is_told_with_its_line(fail, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("data:\n  tasks-per-round: 2\n")
    assert fail("-c", str(other)) == (
        f"error: {other}, line 2: there is no configuration key data.tasks-per-round; did you mean data.tasks_per_round?"
    )


def test_an_infinite_rate_is_refused_as_one(fail):
    assert fail("--model.planner.lr", ".inf") == (
        "error: model.planner: lr of an optimiser is inf: give 0 or more, and a finite number"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-trainer.max_steps", "3"], "-trainer.max_steps: keys begin with two hyphens: --trainer.max_steps"),
        (["trainer.max_steps=3"], "'trainer.max_steps=3' belongs to no option: a key begins with two hyphens, --trainer."),
        (["--trainer.devices", "-2"], "trainer.devices is -2: give 1 or more processes of the CPU, or auto"),
        (["--trainer.devices", "x"], "trainer.devices is x: give 1 or more processes of the CPU, or auto"),
        (["--trainer.devices", "0"], "trainer.devices is 0: give 1 or more processes of the CPU, or auto"),
    ],
)  # fmt: skip
def test_slips_of_the_command_line_are_told_with_what_to_write(fail, words, said):
    assert fail(*words).startswith(f"error: {said}")
