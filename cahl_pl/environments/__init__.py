"""What answers the executor's calls."""

from .base import Environment, Session
from .executable import ExecutableEnvironment
from .recorded import RecordedEnvironment

__all__ = ["Environment", "ExecutableEnvironment", "RecordedEnvironment", "Session"]
