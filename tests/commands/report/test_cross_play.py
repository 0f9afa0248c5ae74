"""The matrix of cross-play on a page."""

from __future__ import annotations

import json
import re

import pytest

from cahl_pl.commands.report import data


def pairs(**success):
    """Of three sets of adapters, as cahl-pl cross-play writes it; all others 0."""
    names = ("start", "step-000002", "step-000004")
    values = {f"{planner} {executor}": 0.0 for planner in names for executor in names} | success
    return {"test_set": "test", "tasks": 60, "checkpoints": [f"run/{n}.ckpt" for n in names[1:]], "success": values}


def test_the_matrix_of_cross_play_is_shown_where_it_is_given(write, make_run, tmp_path):
    content = pairs(**{"start start": 0.25, "step-000002 step-000004": 0.5})
    (tmp_path / "cross_play.json").write_text(json.dumps(content))
    text = write(make_run(), cross_play=tmp_path).text
    matrix = text[text.index('<table class="heat">') : text.index('<section id="episodes"')]
    head, *rows = re.findall(r"<tr>(.*?)</tr>", matrix)
    assert re.findall(r">([^<]+)<", head)[1:] == ["start", "step-000002", "step-000004"]
    assert rows[0].endswith(
        '<td style="--heat: 50%">25.0</td><td style="--heat: 0%">0.0</td><td style="--heat: 0%">0.0</td>'
    )
    assert rows[1].startswith('<th scope="row">step-000002</th>')
    assert rows[1].endswith('<td style="--heat: 100%">50.0</td>')
    assert "60 tasks of test." in text
    assert '<a href="#alignment">' in text
    assert "alignment" not in write(make_run("other")).text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("[]", "has another form"),
        ("{}", "lacks 'checkpoints'"),
        (json.dumps({**pairs(), "success": {"start start": 1.0}}), "lacks 'start step-000002'"),
        (json.dumps(pairs(**{"start start": 2.0})), "outside 0 to 1"),
    ],
)
def test_a_matrix_that_cannot_be_shown_is_one_sentence(tool, make_run, tmp_path, content, reason):
    if content is not None:
        (tmp_path / "cross_play.json").write_text(content)
    with pytest.raises(data.RunError, match=re.escape(reason)):
        tool.main(
            [str(make_run()), "--cross-play", str(tmp_path / "cross_play.json"), "--out", str(tmp_path / "r.html")]
        )
