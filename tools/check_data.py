"""Check a file in this project's task format (docs/your-data.md): which rows would be taken, and which not, and why.

    python tools/check_data.py FILE.jsonl

Exits with 1 if a row would be dropped, and with 2 if the file cannot be read at all.
"""

from __future__ import annotations

import argparse
import json
import sys

from cahl_pl.datasets import DataError, JsonlDataset
from cahl_pl.errors import ConfigError
from cahl_pl.pipes import reader_may_leave


@reader_may_leave()
def main(arguments: list[str] | None = None) -> int:
    """Print the report of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        if args.json:
            print(json.dumps({"path": args.file, "error": str(error)}))
        else:
            print(f"error: {error}", file=sys.stderr)
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


if __name__ == "__main__":
    sys.exit(main())
