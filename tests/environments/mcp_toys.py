"""A small MCP server: `python mcp_toys.py` speaks over its standard input and output, with a port over HTTP.

Its second argument is a file that gets a line each time that it starts.
"""

import base64
import os
import sys
import time

from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel

app = MCPServer("toys", log_level="CRITICAL")
notes: list[str] = []


class Part(BaseModel):
    name: str
    count: int = 1


@app.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@app.tool()
def note(text: str) -> list[str]:
    """Keep a note."""
    notes.append(text)
    return notes


@app.tool()
def build(part: Part) -> Part:
    """Build a part."""
    return part.model_copy(update={"count": part.count + 1})


@app.tool()
def say(text: str, times: int = 1) -> str:
    """Say something."""
    return text * times


@app.tool()
def picture() -> list:
    """Show a picture."""
    from mcp.types import ImageContent

    return [ImageContent(type="image", data=base64.b64encode(b"x").decode(), mime_type="image/png")]


@app.tool()
def fail(why: str) -> str:
    """Fail."""
    from mcp.server.mcpserver.exceptions import ToolError

    raise ToolError(why)


@app.tool()
def hang(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "done"


@app.tool()
def die() -> str:
    """End the server."""
    os._exit(3)


if __name__ == "__main__":
    port, log = int(sys.argv[1]), sys.argv[2]
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")
    if port:
        app.run("streamable-http", port=port)
    else:
        app.run("stdio")
