"""Sources of tools that a configuration names once for all tasks."""

from __future__ import annotations

from cahl_pl.environments.mcp_tools import McpTools
from cahl_pl.environments.python_tools import PythonTools
from cahl_pl.types import ToolSpec


def tools_of(source: str) -> tuple[ToolSpec, ...]:
    """Return the tools of a Python file or module, or of the MCP servers that a JSON file names.

    Raises:
        ConfigError: the source cannot be used.
    """
    return McpTools(source).specs if source.endswith(".json") else PythonTools(source).specs
