"""What a bug report needs is printed, and what is missing or outside of its bounds is marked."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch
from packaging.requirements import Requirement

from cahl_pl import __version__
from cahl_pl.commands import console, env


def test_everything_is_told(capsys, monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    console(["env"])
    out = capsys.readouterr().out
    assert out.startswith(f"cahl_pl {__version__} in ")
    for part in (
        "Python 3.",
        f"torch build: {torch.__version__}",
        "cores",
        "GOMP_SPINCOUNT: 77",
        "memory: ",
        "disk of ",
    ):
        assert part in out
    for requirement in env.requirements()[""]:
        assert f"  {requirement.name} " in out
    assert "shipped model: loads (" in out


@pytest.mark.parametrize(
    ("requirement", "end"),
    [
        ("torch", "any"),
        ("torch>=2", ">=2"),
        ("torch<2", "<2  <- outside"),
        ("no-such-package>=1", ">=1  <- missing"),
    ],
)
def test_a_package_outside_of_its_bounds_is_marked(requirement, end):
    line = env.package_line(Requirement(requirement))
    assert line.endswith(end)
    assert (version("torch") in line) == requirement.startswith("torch")


def test_requirements_of_an_installation_are_those_of_a_checkout(monkeypatch, tmp_path):
    checkout = env.requirements()
    texts = [str(r) for r in checkout[""]]
    texts += [f"{r}; extra == '{extra}'" for extra, needs in checkout.items() if extra for r in needs]
    monkeypatch.setattr(env, "FOLDER", tmp_path / "cahl_pl")
    monkeypatch.setattr(env, "requires", lambda name: texts)
    assert {k: list(map(str, v)) for k, v in env.requirements().items()} == {
        k: list(map(str, v)) for k, v in checkout.items()
    }


def test_an_extra_that_is_not_whole_is_named(monkeypatch):
    needs = {
        "": [Requirement("absent-a")],
        "one": [Requirement("torch"), Requirement("absent-b")],
        "two": [Requirement("torch")],
    }
    monkeypatch.setattr(env, "requirements", lambda: needs)
    assert env.missing_extras() == {"one": ["absent-b"]}


def test_what_does_not_load_is_told_and_no_traceback(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no such library")

    monkeypatch.setattr("cahl_pl.policy.loading.load_base", fail)
    assert env.model_line() == "shipped model: cannot be loaded: RuntimeError: no such library"


def test_memory_is_that_of_the_system():
    whole, available = env.memory()
    assert 0 < available <= whole
