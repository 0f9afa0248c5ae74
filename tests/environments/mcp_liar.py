"""An MCP server that answers calls with what is no answer, written by hand since no library would do it.

Its tool's argument says how: see `LIES`. The first argument of the program is a lie to begin with.
"""

import json
import sys

TOOL = {
    "name": "lie",
    "description": "Lie.",
    "inputSchema": {"type": "object", "properties": {"how": {"type": "string"}}, "required": ["how"]},
}
BAD = {"name": "bad", "inputSchema": {"type": "object", "properties": {"x": {"type": "nonsense"}}}}

LIES = {
    "no JSON": "this is no JSON",
    "no message": '{"jsonrpc": "2.0", "what": 1}',
    "wrong result": '{"jsonrpc": "2.0", "id": ID, "result": {"content": 5}}',
    "wrong part": '{"jsonrpc": "2.0", "id": ID, "result": {"content": [{"type": "text"}]}}',
    "list": '{"jsonrpc": "2.0", "id": ID, "result": [1, 2]}',
    "error": '{"jsonrpc": "2.0", "id": ID, "error": {"code": -32000, "message": "so it is"}}',
    "stranger": '{"jsonrpc": "2.0", "id": "another", "result": {"content": []}}',
    "bytes": "\udcff\udcfe",
    "good": '{"jsonrpc": "2.0", "id": ID, "result": {"content": [{"type": "text", "text": "truth"}]}}',
    "huge": '{"jsonrpc": "2.0", "id": ID, "result": {"content": [{"type": "text", "text": "'
    + "x" * 5_000_000
    + '"}]}}',
    "silence": "",
}


def write(line: str) -> None:
    sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.buffer.flush()


for line in sys.stdin:
    message = json.loads(line)
    method, number = message.get("method"), message.get("id")
    if sys.argv[1] == "silence":
        continue
    if sys.argv[1] == "noise":
        write("starting up...")
    if method == "initialize":
        result = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "liar", "version": "1"},
        }
    elif method == "tools/list":
        result = {"tools": [TOOL, BAD] if sys.argv[1] == "bad tool" else [TOOL], "nextCursor": None}
        if sys.argv[1] == "endless":
            result["nextCursor"] = "more"
        del result["nextCursor"]
    elif method == "tools/call":
        write(LIES[message["params"]["arguments"]["how"]].replace("ID", json.dumps(number)))
        continue
    elif number is not None:
        write(json.dumps({"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": "unknown method"}}))
        continue
    else:
        continue
    write(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}))
