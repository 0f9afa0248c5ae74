"""Tokenizer for many threads."""

from __future__ import annotations

import threading
from typing import Any


class LockedTokenizer:
    """Tokenizer that does one thing at a time.

    How text is split, including special tokens, is state of a fast tokenizer: between two threads, the text of a
    request could become a control token.

    Args:
        tokenizer: tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the ids of a text."""
        with self._lock:
            return self._tokenizer(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._tokenizer, name)
        if not callable(found):
            return found

        def locked(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                return found(*args, **kwargs)

        return locked
