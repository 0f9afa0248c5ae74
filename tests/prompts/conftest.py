"""Tokenizers of bytes with the special tokens that a test gives them."""

from __future__ import annotations

import pytest

from tests.prompts import byte_tokenizers


@pytest.fixture(scope="session")
def tokenizer_with():
    """Makes one."""
    return byte_tokenizers.tokenizer_with
