"""The error of a configuration that cannot work."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configured value cannot work: one sentence with the key, what is wrong and what to do."""
