"""``pagemig story``: one small program under every kernel, side by side."""

import argparse
import textwrap
from typing import Any, Final

from pagemig.studies import pictures, story
from pagemig.studies.story_pictures import placements

__all__ = ["add_parser"]

_DESCRIPTION: Final = (
    "Run one small program under every kernel and compare the results: swap entries, migration "
    "entries, the merged version, the proposed one, and today's kernels. Every figure is counted "
    "in the run. docs/history.md tells the story."
)


def add_parser(subparsers: Any) -> None:
    """Add ``pagemig story`` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "story",
        help="one program under the kernels of 2006 and of today",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.fill(_DESCRIPTION, 79),
        epilog="\n".join(["acts:", *(f"  {name:12}{line}" for name, line in story.ACTS.items())]),
    )
    parser.add_argument("acts", metavar="ACT", nargs="*", help="only these acts (default: all)")
    parser.add_argument(
        "--kernel",
        metavar="NAME",
        action="append",
        help="only this kernel; may be given more than once",
    )
    parser.add_argument(
        "--pages", type=int, default=16, metavar="N", help="pages of each kind (default: 16)"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write a picture of where the pages were (needs matplotlib): .png, .svg, .pdf",
    )
    parser.set_defaults(main=_main)


def _main(args: argparse.Namespace) -> int:
    acts = story.known_acts(args.acts or story.ACTS)
    if args.output:
        pictures.check(args.output)
    stories = story.compare(args.kernel or story.TOLD_OF, pages=args.pages)
    if not args.acts:
        print(story.introduction(stories), end="\n\n")
    print(story.text(stories, acts))
    if args.output:
        pictures.draw(lambda: placements(stories, args.output), args.output)
    return 0
