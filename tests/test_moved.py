"""Earlier names lead to what they have become."""

from __future__ import annotations

import importlib
import sys

import pytest

from cahl_pl.cli import main
from cahl_pl.distributed import AdapterDDPStrategy
from cahl_pl.engines import TransformersEngine
from cahl_pl.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_new_module(old):
    sys.modules.pop(f"cahl_pl.{old}", None)
    with pytest.warns(FutureWarning, match=rf"^cahl_pl\.{old} is now cahl_pl\.{MOVED[old]}: use that name$"):
        module = importlib.import_module(f"cahl_pl.{old}")
    new = importlib.import_module(f"cahl_pl.{MOVED[old]}")
    assert vars(module).items() >= {k: v for k, v in vars(new).items() if not k.startswith("__")}.items()
    assert new.__spec__.name == f"cahl_pl.{MOVED[old]}"


def test_a_class_path_of_an_old_configuration_still_works():
    sys.modules.pop("cahl_pl.engines.transformers", None)
    arguments = ["-c", "quickstart", "--data.engine=cahl_pl.engines.transformers.TransformersEngine"]
    with pytest.warns(FutureWarning, match=r"engines\.transformers is now"):
        built = main([*arguments, "--data.engine.batch_size=7"], run=False)
    engine = built.datamodule.rollout.engine
    assert isinstance(engine, TransformersEngine)
    assert engine.batch_size == 7


def test_classes_are_the_same_under_both_names():
    sys.modules.pop("cahl_pl.strategy", None)
    with pytest.warns(FutureWarning):
        assert importlib.import_module("cahl_pl.strategy").AdapterDDPStrategy is AdapterDDPStrategy


def test_a_name_that_never_was_is_still_missing():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("cahl_pl.nothing_of_the_kind")


def test_an_old_configuration_is_told_by_its_file_and_line(tmp_path):
    file = tmp_path / "old.yaml"
    file.write_text("data:\n  # cahl_pl.forward\n  engine: cahl_pl.engines.transformers.TransformersEngine\n")
    sys.modules.pop("cahl_pl.engines.transformers", None)
    with pytest.warns(FutureWarning) as told:
        main(["-c", "quickstart", "-c", str(file)], run=False)
    (warning,) = told
    assert (warning.filename, warning.lineno) == (str(file), 3)
    assert str(warning.message) == (
        "engine: cahl_pl.engines.transformers.TransformersEngine: cahl_pl.engines.transformers is now "
        "cahl_pl.engines.local: write that name there"
    )
