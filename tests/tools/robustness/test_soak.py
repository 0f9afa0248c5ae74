"""What grows is measured and told; what does not is not."""

from __future__ import annotations

import json
import os

import pytest

from cahl_pl.plurals import counted
from tools.robustness import soak


def test_the_slopes_are_those_of_the_second_half():
    lines = [{"seconds": s, "resident_mib": 1000 - s, "files": 20, "objects": 0} for s in range(0, 3600, 300)]
    lines += [{"seconds": s, "resident_mib": s / 360, "files": 20, "objects": s} for s in range(3600, 7201, 300)]
    slopes = soak.slopes(lines)
    assert slopes["resident_mib"] == pytest.approx((10.0, 0.0), abs=1e-5)
    assert slopes["files"] == pytest.approx((0.0, 0.0))
    assert slopes["objects"] == pytest.approx((3600.0, 0.0), abs=1e-3)


def test_the_standard_error_is_that_of_least_squares():
    hours, values = (
        (0.0, 0.0, 1.0, 2.0, 3.0),
        (0, 0, 0.0, 2.0, 1.0),
    )  # the last three count: slope 1/2, residuals -1/2, 1, -1/2
    lines = [
        {"seconds": 3600 * (1.5 + h), "resident_mib": v, "files": 0, "objects": 0}
        for h, v in zip(hours, values, strict=True)
    ]
    lines[0]["seconds"] = lines[1]["seconds"] = 0
    slope, error = soak.slopes(lines)["resident_mib"]
    assert (slope, error) == pytest.approx((0.5, (1.5 / 1 / 2) ** 0.5))


def test_open_files_are_counted():
    before = soak.measure()
    descriptor = os.open("/dev/null", os.O_RDONLY)
    after = soak.measure()
    os.close(descriptor)
    assert after["files"] == before["files"] + 1
    assert after["resident_mib"] > 10


@pytest.mark.timeout(300)
def test_the_quickstart_runs_until_the_time_is_over(small, tmp_path, capsys):
    soak.main(
        ["--out", str(tmp_path), "--hours", "0.001", "--steps", "4", "--", "-c", "configs/quickstart.yaml", *small]
    )
    lines = [json.loads(line) for line in (tmp_path / "measurements.jsonl").read_text().splitlines()]
    first = [line["step"] for line in lines if line["fit"] == 1]
    assert first == list(range(1, 2 * len(first), 2))  # a line a round of both roles
    assert f"{counted(len(lines), 'round')}, {counted(lines[-1]['fit'], 'fit')}" in capsys.readouterr().out
