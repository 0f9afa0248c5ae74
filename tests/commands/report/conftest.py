"""Folders of runs, and the page that is written of them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from cahl_pl.commands.report import page

VOID = {"meta", "input", "br", "link", "img"}


class Page(HTMLParser):
    """Reads a page, and complains where elements are not closed in order or an id appears twice."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed(text)
        self.close()
        assert self._open == []
        ids = self.attributes("id")
        assert len(set(ids)) == len(ids)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if self._open:
            tag, attributes = self._open[-1]
            key = attributes.get("id", tag)
            self.texts[key] = self.texts.get(key, "") + data

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture
def tool():
    pytest.importorskip("matplotlib", reason="the figures need matplotlib: pip install -e '.[report]'")
    return page


@pytest.fixture
def make_run(tmp_path):
    """Writes the folder of a run: scalars as {step: {tag: value}}, lines of trajectories.jsonl, other files."""

    def make(name="joint-0", scalars=None, lines=(), files=None):
        logger = TensorBoardLogger(tmp_path, name=name, version=0, default_hp_metric=False)
        for step, values in (scalars or {1: {"planner/reward/mean": 0.25}}).items():
            logger.log_metrics(values, step)
        logger.experiment.close()
        folder = tmp_path / name / "version_0"
        texts = [text if isinstance(text, str) else json.dumps(text) for text in lines]
        if texts:
            (folder / "trajectories.jsonl").write_text("".join(text + "\n" for text in texts))
        for file, content in (files or {}).items():
            (folder / file).write_text(content)
        return folder

    return make


@pytest.fixture
def write(tool, tmp_path, capsys):
    """Runs the tool: what it has printed, the page's text, and the page read."""

    def run(*folders, cross_play=None):
        out = tmp_path / "report.html"
        options = [] if cross_play is None else ["--cross-play", str(cross_play)]
        tool.main([*map(str, folders), "--out", str(out), *options])
        text = out.read_bytes().decode("utf-8")
        page = Page(text)
        return SimpleNamespace(
            said=capsys.readouterr().out, path=out, text=text, page=page, data=json.loads(page.texts["data"])
        )

    return run
