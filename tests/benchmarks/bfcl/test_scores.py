"""Both schemes on values worked out by hand."""

from __future__ import annotations

import pytest

from cahl_pl.benchmarks.bfcl.data import CATEGORIES
from cahl_pl.benchmarks.bfcl.scores import missing, summarize

ACCURACY = {
    "simple_python": 0.9,
    "simple_java": 0.6,
    "simple_javascript": 0.3,  # simple: 0.6
    "multiple": 0.8,
    "parallel": 0.4,
    "parallel_multiple": 0.2,  # non-live AST: 2.0 / 4
    "irrelevance": 1.0,  # non-live: 3.0 / 5
    "live_simple": 0.5,
    "live_multiple": 0.25,
    "live_parallel": 1.0,
    "live_parallel_multiple": 0.0,  # live AST: (1 + 1 + 2 + 0) / 10
    "live_irrelevance": 0.5,
    "live_relevance": 0.75,  # live: (4 + 3 + 3) / 20
    "multi_turn_base": 0.4,
    "multi_turn_miss_func": 0.2,
    "multi_turn_miss_param": 0.1,
    "multi_turn_long_context": 0.1,
}
COUNTS = {
    **dict.fromkeys(CATEGORIES, 7),
    "live_simple": 2,
    "live_multiple": 4,
    "live_parallel": 2,
    "live_parallel_multiple": 2,
    "live_irrelevance": 6,
    "live_relevance": 4,
}
PARTS = {
    "non_live_ast": 0.5,
    "live_ast": 0.4,
    "irrelevance_detection": 0.75,
    "relevance_detection": 0.75,
    "multi_turn": 0.2,
}


def test_v3_is_the_mean_of_three_parts():
    assert summarize(ACCURACY, COUNTS, "v3") == pytest.approx(
        {**PARTS, "non_live": 0.6, "live": 0.5, "overall": (0.6 + 0.5 + 0.2) / 3}
    )


def test_v4_has_no_overall_without_its_agentic_part():
    assert summarize(ACCURACY, COUNTS, "v4") == pytest.approx(PARTS)


def test_what_needs_a_category_that_was_not_run_is_left_out():
    accuracy = {name: value for name, value in ACCURACY.items() if name != "simple_java"}
    assert summarize(accuracy, COUNTS, "v3") == pytest.approx(
        {name: value for name, value in PARTS.items() if name != "non_live_ast"} | {"live": 0.5}
    )
    assert summarize({"live_relevance": 0.5}, COUNTS, "v3") == {"relevance_detection": 0.5}
    assert missing({name: 1 for name in accuracy}) == ["simple_java"]
    assert missing({**COUNTS, "parallel": 0}) == ["parallel"]
