"""Environments that answer the executor's calls."""

from cahl_pl.environments.acknowledging import AcknowledgingEnvironment
from cahl_pl.environments.base import Environment, Session
from cahl_pl.environments.executable import ExecutableEnvironment
from cahl_pl.environments.mcp_tools import McpEnvironment, McpTools
from cahl_pl.environments.python_tools import PythonTools, PythonToolsEnvironment
from cahl_pl.environments.recorded import RecordedEnvironment
from cahl_pl.environments.sandbox import SandboxedEnvironment

__all__ = [
    "AcknowledgingEnvironment",
    "Environment",
    "ExecutableEnvironment",
    "McpEnvironment",
    "McpTools",
    "PythonTools",
    "PythonToolsEnvironment",
    "RecordedEnvironment",
    "SandboxedEnvironment",
    "Session",
]
