"""Exceptions raised for mistakes, of users and of models, and for stop requests."""

from __future__ import annotations


class UserError(Exception):
    """Error that a user can put right: the command line prints its one sentence, without a traceback."""


class ConfigError(UserError, ValueError):
    """A configured value cannot work: one sentence with the key, what is wrong and what to do."""


class NothingLearnedError(ConfigError):
    """Training learns nothing; raised by all processes, after a step, where nothing is half done."""


class ToolWarning(UserWarning):
    """Something about a user's tools that works, and perhaps not as meant; the command line prints it without a source line."""


class Interrupted(SystemExit):
    """The run was asked to stop; the process exits with 128 + the signal's number (143 or 130), as shells do.

    It may be raised anywhere, inside a tool's call too: whoever catches what a tool raises has to let it pass.
    """


class DataError(UserError, ValueError):
    """Data that cannot be used: one sentence with the file, the row, the field and what to do."""


class StaleBatchError(RuntimeError):
    """A batch was sampled by an older policy than the one that would be trained on it."""


class NonFiniteError(UserError, RuntimeError):
    """Loss or gradients were not finite in too many steps of a role in a row."""


class ProcessLostError(UserError, RuntimeError):
    """Another process of a run on several devices or machines is out of reach."""


class PolicyError(UserError, ValueError):
    """The base model cannot be loaded as asked; the message says what to change."""


class SchemaError(UserError, ValueError):
    """A tool's parameters are not a JSON Schema of type object."""


class ArgumentError(ValueError):
    """A value that a model wrote cannot be read as its parameter's type; the message is one sentence for the model."""
