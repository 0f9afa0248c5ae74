"""The table of reports, on values worked out by hand."""

from __future__ import annotations

import json

import pytest

from cahl_pl.commands import results_table


@pytest.fixture(scope="module")
def tool():
    return results_table


@pytest.fixture
def run(tmp_path):
    """Writes the report of a run."""

    def write(folder, name="bfcl", complete=True, scheme="V3", tasks=10, **scores):
        report = {"benchmark": "B", "scheme": scheme, "complete": complete, "denominators": {"all": tasks}}
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.json").write_text(json.dumps({**report, "scores": scores}))
        return tmp_path / folder

    return write


def test_seeds_are_one_row_with_mean_and_spread(tool, run):
    runs = [
        run("joint-0", overall=0.5),
        run("joint-1", overall=0.6),
        run("joint-2", overall=0.7),
        run("base", overall=0.25),
    ]
    run("base", "api_bank", overall=1.0)
    assert tool.table(runs).splitlines() == [
        "| system | bfcl/overall | api_bank/overall |",
        "| --- | ---: | ---: |",
        "| joint | 60.0 +- 10.0 (3) | - |",
        "| base | 25.0 | 100.0 |",
        "",
        "- `bfcl`: B, V3; tasks: all 10",
        "- `api_bank`: B, V3; tasks: all 10",
    ]


def test_a_report_over_a_share_of_the_tasks_is_marked(tool, run):
    lines = tool.table([run("base", complete=False, overall=0.5, multi_turn=0.125)], ["bfcl/multi_turn"]).splitlines()
    assert lines[2] == "| base | 12.5* |"
    assert lines[-1] == "- `*`: over a share of the tasks only"


@pytest.mark.parametrize(("key", "value"), [("scheme", "V4"), ("tasks", 11)])
def test_what_cannot_be_compared_is_refused(tool, run, key, value):
    runs = [run("joint-0", overall=0.5), run("joint-1", overall=0.5, **{key: value})]
    with pytest.raises(results_table.TableError, match=r"^bfcl has different .* give them tables of their own"):
        tool.main([str(path) for path in runs])


def test_a_run_that_is_not_finished_is_named(tool, tmp_path):
    (tmp_path / "bfcl.json").write_text('{"benchmark": "B", "scheme": "V3", "complete": false}')
    with pytest.raises(tool.TableError, match="there is no finished report"):
        tool.table([tmp_path])


def test_without_an_overall_score_the_user_is_told(tool, run):
    with pytest.raises(tool.TableError, match="--scores"):
        tool.table([run("base", multi_turn=0.5)])


def test_a_folder_is_given_once(tool, run):
    path = run("a-0", overall=0.5)
    with pytest.raises(tool.TableError, match="a folder is given twice"):
        tool.table([path, path.parent / "." / "a-0"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scores", {"overall": "0.5"}),
        ("scores", {"overall": None}),
        ("scores", {"overall": float("nan")}),
        ("scores", []),
        ("denominators", 3),
        ("denominators", {"all": "10"}),
        ("scheme", None),
    ],
)
def test_a_damaged_report_is_named(tool, run, key, value):
    path = run("a-0", overall=0.5) / "bfcl.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(results_table.TableError, match=r"^.*bfcl\.json is damaged: [^\n]*$"):
        tool.main([str(path.parent)])


def test_what_is_no_report_is_passed_over(tool, run):
    folder = run("a-0", overall=0.5)
    (folder / "folder.json").mkdir()
    (folder / "deep.json").write_text("[" * 100_000)
    assert list(tool.load(folder)) == ["bfcl"]


@pytest.mark.parametrize("score", ["bfcl/nope", "nope/overall", "bfcl"])
def test_a_score_that_no_report_has_is_refused(tool, run, score):
    with pytest.raises(tool.TableError, match=f"no report has the score {score}: there are bfcl/overall"):
        tool.table([run("a-0", overall=0.5)], [score])
