"""Check a file in this project's task format (docs/your-data.md): which rows would be taken, and which not, and why.

    python -m cahl_pl check-data FILE.jsonl

Exits with 1 if a row would be dropped, and with 2 if the file cannot be read at all.
"""

from __future__ import annotations

import json

from cahl_pl.commands import verb_parser
from cahl_pl.datasets import DataError, JsonlDataset
from cahl_pl.errors import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Print the report of the file."""
    parser = verb_parser("check-data", __doc__)
    parser.add_argument("file", metavar="FILE.jsonl")
    parser.add_argument(
        "--tools", metavar="MODULE", help="a Python file or module, for rows without tools of their own"
    )
    parser.add_argument(
        "--on-contradiction",
        choices=["relax", "drop"],
        default="relax",
        help="relax the schema of a row whose gold breaks it, or drop the row",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args(arguments)
    try:
        report = JsonlDataset(args.file, args.on_contradiction, tools=args.tools).report
    except (DataError, ConfigError) as error:
        if not args.json:
            raise
        print(json.dumps({"path": args.file, "error": str(error)}))
        return 2
    kept, relaxed, dropped = report.counts
    if args.json:
        named = {
            kind: [{"id": name, "reason": reason} for name, reason in rows]
            for kind, rows in (("relaxed_rows", report.relaxed), ("dropped_rows", report.dropped))
        }
        print(json.dumps({"path": args.file, "kept": kept, "relaxed": relaxed, "dropped": dropped, **named}))
    else:
        print(report)
    return 1 if dropped else 0
