"""Schemas of older drafts, at any depth; what only looks like a keyword stays."""

from __future__ import annotations

import pytest

from cahl_pl.schema.drafts import modernised

OLD = {"items": [{"type": "number"}, True], "additionalItems": {"type": "string"}}
NEW = {"prefixItems": [{"type": "number"}, True], "items": {"type": "string"}}


@pytest.mark.parametrize(
    ("schema", "made"),
    [
        (OLD, NEW),
        ({"items": OLD}, {"items": NEW}),
        ({"properties": {"items": OLD}, "anyOf": [OLD]}, {"properties": {"items": NEW}, "anyOf": [NEW]}),
        ({"default": OLD, "enum": [OLD]}, {"default": OLD, "enum": [OLD]}),
        ({"minimum": 1, "exclusiveMinimum": True}, {"exclusiveMinimum": 1}),
        ({"maximum": 1, "exclusiveMaximum": False}, {"maximum": 1}),
        ({"exclusiveMaximum": 3}, {"exclusiveMaximum": 3}),
        (True, True),
    ],
)
def test_older_drafts(schema, made):
    assert modernised(schema) == made
