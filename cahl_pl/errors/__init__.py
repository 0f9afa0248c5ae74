"""Exceptions for mistakes, of users and of models, and for stop requests."""

from __future__ import annotations


class UserError(Exception):
    """Error that a user can fix: the command line prints its one sentence, without a traceback."""


class ConfigError(UserError, ValueError):
    """Configured value that cannot work: one sentence with the key, the fault and the remedy."""


class NothingLearnedError(ConfigError):
    """Training that learns nothing; raised by all processes, after a step, when nothing is half done."""


class ToolWarning(UserWarning):
    """Something in a user's tools that works, but perhaps not as meant; the command line prints it without a source line."""


class Interrupted(SystemExit):
    """Request to stop the run; the process exits with 128 + the signal's number (143 or 130), as shells do.

    It may be raised anywhere, even inside a tool's call: code that catches a tool's errors must let it pass.
    """


class DataError(UserError, ValueError):
    """Data that cannot be used: one sentence with the file, the row, the field and the remedy."""


class StaleBatchError(RuntimeError):
    """Batch that was sampled by an older policy than the one that would be trained on it."""


class NonFiniteError(UserError, RuntimeError):
    """Loss or gradients that were not finite in too many steps of a role in a row."""


class ProcessLostError(UserError, RuntimeError):
    """Loss of contact with another process of a run on several devices or machines."""


class PolicyError(UserError, ValueError):
    """Base model that cannot be loaded as configured; the message says what to change."""


class SchemaError(UserError, ValueError):
    """Parameters of a tool that are not a JSON Schema of type object."""


class ArgumentError(ValueError):
    """Value written by a model that cannot be read as its parameter's type; the message is one sentence for the model."""
