"""What answers the executor's calls."""

from .acknowledging import AcknowledgingEnvironment
from .base import Environment, Session
from .executable import ExecutableEnvironment
from .python_tools import PythonTools, PythonToolsEnvironment
from .recorded import RecordedEnvironment
from .sandbox import SandboxedEnvironment

__all__ = [
    "AcknowledgingEnvironment",
    "Environment",
    "ExecutableEnvironment",
    "PythonTools",
    "PythonToolsEnvironment",
    "RecordedEnvironment",
    "SandboxedEnvironment",
    "Session",
]
