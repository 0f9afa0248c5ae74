"""Exceptions raised for user mistakes and stop requests."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configured value cannot work: one sentence with the key, what is wrong and what to do."""


class NothingLearnedError(ConfigError):
    """Training learns nothing; raised by all processes, after a step, where nothing is half done."""


class Interrupted(SystemExit):
    """The run was asked to stop; the process exits with 128 + the signal's number (143 or 130), as shells do.

    It may be raised anywhere, inside a tool's call too: whoever catches what a tool raises has to let it pass.
    """
