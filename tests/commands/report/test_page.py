"""The page of a report: what stands on it, by values worked out by hand, and that no text of a model can break it."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from itertools import pairwise

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from cahl_pl.commands.report import data, episodes, page, plots

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror=broken()><!-- \u2028 & $digest \ud800"


def call(name, **parameters):
    return {"name": name, "parameters": parameters}


def line(*calls, gold=(), success=False, **changes):
    """A line of trajectories.jsonl."""
    steps = [
        {
            "task": "do it",
            "output": "out",
            "call": made,
            "answer": None if made else "text",
            "feedback": "reply" if made else None,
            "error": None,
        }
        for made in calls
    ]
    values = {"step": 3, "reward": 0.5, "id": "t1", "request": "please", "plan": "", "plan_error": "empty plan"}
    return {**values, "steps": steps, "gold": list(gold), "success": success, **changes}


SUMMARY = {
    "test": {"before": 0.25, "after": 0.75},
    "details": {
        "test": {
            "before": {"task/success": 0.25, "tools/calls_per_task": 1.0},
            "after": {"task/success": 0.75, "tools/calls_per_task": 1.5},
        },
        "training": {"steps": 4, "tokens": 12345},
    },
}
SCALARS = {
    step: {
        "planner/reward/mean": 0.1 * step,
        "planner/reward/param": 0.1 * step,
        "planner/reward/std": 0.1,
        "convergence/planner/reward_ema": 0.05 * step,
        "convergence/planner/slope": 0.0125,
        "convergence/planner/plateau": float(step > 2),
        "task/success": 0.5,
        "tools/invalid_rate": 0.25,
        "tools/invalid_rate/parse": 0.25,
        "tools/invalid_rate/type": 0.0,
        "tools/success/clock": 0.25 * step,
    }
    for step in range(1, 5)
}


def test_a_page_is_whole_and_asks_for_nothing(write, make_run):
    config = "data:\n  tasks_per_round: 7\nmodel: {policy: {model: 'a<b'}}\n"
    files = {"summary.json": json.dumps(SUMMARY), "config.yaml": config}
    made = write(
        make_run(scalars=SCALARS, lines=[line(call("clock"), gold=[call("clock")], success=True)], files=files)
    )
    assert made.said == f"written: {made.path} ({len(made.text.encode()) / 1000:.0f} KB)\n"
    assert "http:" not in made.text
    assert "https:" not in made.text
    assert all(link.startswith("#") for link in made.page.attributes("href"))
    assert made.page.attributes("src") == []
    tags = [tag for tag, _ in made.page.elements]
    assert (tags.count("h1"), tags.count("main")) == (1, 1)
    assert all(attributes["aria-label"] for tag, attributes in made.page.elements if tag == "svg")
    assert "<td>25.0 %</td><td>75.0 %</td><td>+50.0 pp</td>" in made.text
    assert "<td>1.00</td><td>1.50</td><td>+0.50</td>" in made.text
    assert "<td>12,345</td>" in made.text
    assert '<tr><th scope="row">model.policy.model</th><td>a&lt;b</td></tr>' in made.text
    (episode,) = made.data["episodes"]
    assert (episode["run"], episode["kind"], episode["step"], episode["success"]) == (0, "training", 3, True)


def test_curves_carry_their_ends_and_where_they_became_flat(write, make_run):
    text = write(make_run(scalars=SCALARS)).text
    assert 'aria-label="Reward; planner 0.05 to 0.2, flat from step 3"' in text
    assert "param <b>0.1 to 0.25</b>" in text
    assert "std <b>" not in text
    assert "type <b>0 throughout</b>" in text
    assert '<tr><th scope="row">planner</th><td>0.20</td><td>+0.0125</td><td>since step 3</td></tr>' in text
    # steps 1 and 2, then 3 and 4
    assert "38 %</span></td>" in text
    assert "88 %</span></td>" in text


def test_a_plateau_that_has_ended_is_none(write, make_run):
    scalars = {
        step: {"convergence/planner/reward_ema": 0.5, "convergence/planner/plateau": flat}
        for step, flat in ((1, 1.0), (2, 0.0))
    }
    assert "<td>0.50</td><td>-</td><td>no</td>" in write(make_run(scalars=scalars)).text


def test_several_runs_lie_over_one_another(write, make_run):
    folders = [
        make_run(name, SCALARS, files={"summary.json": json.dumps(SUMMARY), "config.yaml": f"a: {i}\nb: 1\n"})
        for i, name in enumerate(("one", "two"))
    ]
    made = write(*folders)
    assert made.data["runs"] == ["one", "two"]
    assert (
        'aria-label="Reward: planner; one 0.05 to 0.2, flat from step 3; two 0.05 to 0.2, flat from step 3"'
        in made.text
    )
    assert ">one: before</th>" in made.text
    assert ">two: before</th>" in made.text
    assert '<tr><th scope="row">a</th><td>0</td><td>1</td></tr>' in made.text
    assert '<tr><th scope="row">b</th>' not in made.text


def test_smoothing_and_plateaus(tool):
    assert plots.trailing_mean({1: 2.0, 3: 4.0}) == {1: 2.0, 3: 3.0}
    forty = plots.trailing_mean({step: float(step) for step in range(40)})  # a window of five
    assert [forty[step] for step in (0, 1, 39)] == [0.0, 0.5, 37.0]
    assert plots.trailing_mean({step: float(step) for step in range(200)})[199] == 194.5  # of ten
    assert plots.onsets({2: 0.0, 4: 1.0, 6: 1.0, 8: 0.0, 10: 1.0}) == (4, 10)
    assert plots.onsets({2: 1.0}) == (2,)
    assert plots.onsets({}) == ()


def test_differences_from_gold_are_marked(tool):
    gold = [call("send", to="Bo", times=3), call("clock")]
    made = [call("send", to="Al", times="3", fast=True), None, call("send", to="Bo"), call("look")]
    shown = episodes.view(line(*made, gold=gold), "training")
    first, answer, second, third = [step["call"] for step in shown["steps"]]
    # the first shares 2 of 3 names and 1 of 2 values, the second 1 of 2 and 1 of 2: the first is the likelier one
    assert first["parameters"] == [
        {"name": "to", "value": '"Al"', "mark": "wrong", "gold": '"Bo"'},
        {"name": "times", "value": '"3"'},
        {"name": "fast", "value": "true", "mark": "surplus"},
    ]
    assert "mark" not in first
    assert answer is None
    assert (second["mark"], third["mark"]) == ("surplus", "surplus")
    assert [call["mark"] for call in shown["gold"]] == [None, "missing"]
    assert shown["tools"] == ["clock", "look", "send"]


def test_missing_parameters_are_marked_and_successes_are_not(tool):
    view = episodes.view
    gold = [call("send", to="Bo", times=10**30)]
    (step,) = view(line(call("send", to="Bo"), gold=gold), "training")["steps"]
    assert step["call"]["parameters"][1] == {"name": "times", "mark": "missing", "gold": "1" + "0" * 30}
    shown = view(line(call("send", to="bo"), gold=gold, success=True), "training")
    assert shown["steps"][0]["call"]["parameters"] == [{"name": "to", "value": '"bo"'}]
    assert shown["gold"][0]["mark"] is None
    assert "mark" not in view(line(call("send")), "training")["steps"][0]["call"]  # nothing to compare with


def test_a_plan_is_read(tool):
    plan = '<plan>\n{"task": "see", "tool": "clock", "parameters": {"zone": "$1"}}\n</plan>'
    shown = episodes.view(line(plan=plan, plan_error=None), "training")
    assert shown["planned"] == [{"name": "clock", "parameters": [{"name": "zone", "value": '"$1"'}]}]


def test_damaged_lines_are_left_out_and_counted(write, make_run):
    damaged = [
        '{"step": 1, "id": "torn',
        "[]",
        "{}",
        json.dumps(line(steps=1)),
        json.dumps(line(reward="high")),
        json.dumps(line(request=["a"])),
        json.dumps(line(call("x") | {"parameters": [1]})),
        json.dumps(line()).replace("0.5", "NaN"),
        "[" * 100_000,
        "1" * 5000,
    ]
    made = write(make_run(lines=[line(id="a"), *damaged, line(id="b")]))
    assert [episode["id"] for episode in made.data["episodes"]] == ["a", "b"]
    assert "trajectories.jsonl: 10 lines could not be read and are left out." in made.text


def test_predictions_are_read_too(write, make_run):
    record = {key: value for key, value in line(id="p").items() if key not in ("step", "reward")}
    made = write(make_run(lines=[line(id="a")], files={"predictions.jsonl": json.dumps(record) + "\n"}))
    assert [(e["id"], e["kind"], e["reward"]) for e in made.data["episodes"]] == [
        ("a", "training", 0.5),
        ("p", "prediction", None),
    ]


def test_what_is_missing_is_said(write, make_run):
    text = write(make_run()).text
    for sentence in ("No summary.json:", "No config.yaml:", "No trajectories.jsonl and no predictions.jsonl"):
        assert sentence in text
    assert "No call of any tool was logged." in text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", '{"test": 1, "details": {}}'),
        ("summary.json", '{"test": {}, "details": {"test": {"before": {"a": "x"}, "after": null}}}'),
        ("config.yaml", "a: ["),
    ],
)
def test_damaged_files_are_said(write, make_run, file, content):
    assert f"{file} cannot be read, so that " in write(make_run(files={file: content})).text


def test_hostile_text_stays_text(write, make_run):
    made_call = call(HOSTILE, **{HOSTILE: HOSTILE})
    hostile = line(made_call, gold=[made_call, call("x")], request=HOSTILE, plan=HOSTILE, id=HOSTILE)
    folder = make_run(
        scalars={1: {"planner/reward/<script>": 0.5, "tools/success/</table>$x$": 1.0}},
        lines=[hostile],
        files={"config.yaml": "a: '</pre><script>1</script>'\n"},
    )
    made = write(folder)
    (episode,) = made.data["episodes"]
    assert episode["request"] == HOSTILE.replace("\ud800", "?")
    scripts = [attributes for tag, attributes in made.page.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert not [tag for tag, _ in made.page.elements if tag == "img"]
    assert "&lt;/table&gt;$x$" in made.text
    digest = base64.b64encode(hashlib.sha256(made.page.texts["script"].encode()).digest()).decode()
    (policy,) = [c for c in made.page.attributes("content") if c.startswith("default-src 'none'")]
    assert policy.endswith(f"script-src 'sha256-{digest}'")


def test_too_many_episodes_are_thinned_evenly(tool, write, make_run, monkeypatch):
    lines = [line(id=str(i)) for i in range(100)]
    size = len(json.dumps(tool.read_runs([make_run(lines=lines)])[0].episodes[50])) + len('"run": 0, ')
    monkeypatch.setattr(tool, "MAX_EPISODE_BYTES", 50 * size)
    made = write(make_run(lines=lines))
    kept = [int(episode["id"]) for episode in made.data["episodes"]]
    assert 40 <= len(kept) <= 50
    assert {b - a for a, b in pairwise(kept)} <= {2, 3}
    assert f"{len(kept)} of 100 episodes are on this page, evenly spaced." in made.text


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/a/version_0"], ["a"]),
        (["runs/a/version_0", "runs/b/version_0"], ["a", "b"]),
        (["runs/a/version_0", "runs/a/version_1"], ["a/version_0", "a/version_1"]),
        (["x/a/version_0", "y/a/version_0"], ["x/a", "y/a"]),
        (["plain"], ["plain"]),
    ],
)
def test_names_are_as_short_as_they_can_be(tool, tmp_path, folders, names):
    assert data.run_names([tmp_path / folder for folder in folders]) == names


def test_folders_that_are_no_run_are_one_sentence(tool, make_run, tmp_path):
    folder = make_run()
    for given, sentence in (
        ([tmp_path / "nowhere"], f"there is no folder {tmp_path / 'nowhere'}: give that of a run"),
        ([folder.parent], f"{folder.parent} has no event file .* give a run's own folder, such as {folder}"),
        ([folder, folder], "a run is given twice: give each once"),
    ):
        with pytest.raises(data.RunError, match=f"^{sentence}"):
            tool.main([*map(str, given), "--out", str(tmp_path / "x.html")])
    with pytest.raises(data.RunError, match=r"cannot be written .*: give another --out"):
        tool.main([str(folder), "--out", str(tmp_path / "no" / "x.html")])


@pytest.fixture
def browser():
    """A headless Chromium, if there is one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright and Chromium")
    with playwright.sync_playwright() as running:
        try:
            chromium = running.chromium.launch(executable_path=shutil.which("chromium"))
        except playwright.Error as error:
            pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


def test_a_run_without_anything_to_show_is_refused(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="run", version=0, default_hp_metric=False)
    logger.log_hyperparams({})
    logger.finalize("success")
    out = tmp_path / "report.html"
    with pytest.raises(
        data.RunError, match=f"there is nothing to report of {tmp_path}/run/version_0: .* give a run that has"
    ):
        page.main([str(tmp_path / "run" / "version_0"), "--out", str(out)])
    assert not out.exists()


def test_in_a_browser(browser, write, make_run):
    hostile = call(HOSTILE, **{HOSTILE: HOSTILE})
    lines = [
        line(call("clock"), gold=[call("clock")], success=True, id="good", reward=1.0, request="What time?"),
        line(hostile, gold=[call("x")], request=HOSTILE, plan=HOSTILE, id="bad", plan_error=HOSTILE),
        *[line(id=f"other{i}", request="word " * 50, reward=None) for i in range(40)],
    ]
    made = write(make_run(scalars=SCALARS, lines=lines, files={"summary.json": json.dumps(SUMMARY)}))
    page = browser.new_page(viewport={"width": 375, "height": 800})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(made.path.as_uri())

    def shown():
        return page.inner_text("#count"), page.inner_text("#episode .hint")

    assert shown() == ("42 of 42 episodes", "task good")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.focus("#list")
    page.keyboard.press("ArrowDown")
    assert page.get_attribute("#list", "aria-activedescendant") == "episode-1"
    assert page.text_content("#episode h4 + .text") == HOSTILE.replace("\ud800", "?")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.keyboard.press("End")
    assert shown()[1] == "task other39"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    assert shown()[1] == "task good"
    page.select_option("#outcome", "failure")
    assert shown() == ("41 of 42 episodes", "task bad")
    page.fill("#least", "0.4")
    assert shown() == ("1 of 42 episodes", "task bad")
    page.fill("#most", "0.45")
    assert page.inner_text("#episode") == "No episode fits."
    page.click("button[type=reset]")
    page.wait_for_function("document.getElementById('count').textContent.startsWith('42')")
    page.select_option("#tool", "clock")
    assert shown() == ("1 of 42 episodes", "task good")
    page.click("button[type=reset]")
    page.fill("#text", "TIME")
    page.select_option("#where", "request")
    assert shown() == ("1 of 42 episodes", "task good")
    page.select_option("#where", "planner")
    assert page.inner_text("#count") == "0 of 42 episodes"
    assert page.evaluate("window.broken === undefined && document.images.length === 0")
    assert errors == []
    assert requests == [made.path.as_uri()]
