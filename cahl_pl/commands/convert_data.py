"""Convert a data set into this project's task format (docs/your-data.md).

    python -m cahl_pl convert-data FORMAT INPUT OUTPUT.jsonl

INPUT is a file, for api-bank-dialogues a folder, or hub:OWNER/NAME[:SPLIT] on the Hugging Face hub, which needs
`pip install "cahl-pl[hub]"`. Rows left out are listed, with reasons, in OUTPUT.jsonl.dropped.txt; the exit status is then 1.
"""

from __future__ import annotations

from cahl_pl.commands import verb_parser
from cahl_pl.datasets import DataError
from cahl_pl.datasets.convert import FORMATS, NEEDS_TOOLS, check_output, convert, read_source
from cahl_pl.plurals import counted


def main(arguments: list[str] | None = None) -> int:
    """Convert, and print a summary of the rows.

    Returns:
        1 if a row was left out, else 0.

    Raises:
        ConfigError: the arguments do not fit together.
        DataError: nothing could be converted.
    """
    parser = verb_parser("convert-data", __doc__)
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("input", metavar="INPUT")
    parser.add_argument("output", metavar="OUTPUT.jsonl")
    parser.add_argument(
        "--tools",
        nargs="+",
        default=[],
        metavar="FILE",
        help=f"files that declare the tools, for {' and '.join(NEEDS_TOOLS)}, and nestful's specification",
    )
    parser.add_argument(
        "--num-distractors", type=int, default=4, help="tools offered besides those called; with --tools"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw of these")
    parser.add_argument(
        "--on-contradiction",
        choices=["relax", "drop"],
        default="relax",
        help="relax the schema of a task whose gold breaks its types, or drop the task",
    )
    args = parser.parse_args(arguments)
    check_output(args.input, args.tools, args.output)
    source = read_source(args.format, args.input, args.tools, args.num_distractors, args.seed)
    try:
        report = convert(source, args.input, args.output, args.on_contradiction)
    except OSError as error:
        raise DataError(f"{args.output}: cannot be written ({error.strerror}); choose another place") from None
    print(report)
    dropped = report.counts[2]
    print(
        f"written: {args.output}" + (f" and {args.output}.dropped.txt ({counted(dropped, 'line')})" if dropped else "")
    )
    return 1 if dropped else 0
