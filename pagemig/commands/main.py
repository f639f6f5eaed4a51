"""The ``pagemig`` command: a dispatcher over modules that each add one or more subcommands."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from pagemig import __version__, get_include

__all__ = ["MODULES", "main"]

#: Modules with ``add_parser(subparsers)``; a subcommand sets ``main``, a function of the parsed
#: arguments that returns the exit status. One that has done something when it is interrupted also
#: sets ``kept``, a function of them that says what is kept and how to go on.
MODULES = [
    "pagemig.commands.record",
    "pagemig.commands.trace",
    "pagemig.commands.replay",
    "pagemig.commands.sweep",
    "pagemig.commands.published",
    "pagemig.commands.live",
    "pagemig.commands.conform",
    "pagemig.commands.run",
    "pagemig.commands.rates",
    "pagemig.commands.story",
]


class _CompilerFlags(argparse.Action):
    """Print the flags unwrapped; argparse would wrap them like text."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"-I{get_include()}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pagemig", description="Linux page migration, modelled page by page."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--cflags",
        action=_CompilerFlags,
        nargs=0,
        help="show the flags of a C compiler for programs that embed pagemig, and exit",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in MODULES:
        import_module(module).add_parser(subparsers)
    return parser


def _said(error: OSError | ValueError) -> str:
    """Describe an error in one line, beginning with its file if it has one."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _say_interrupted(args: argparse.Namespace) -> None:
    """Print what is kept of an interrupted command."""
    if sys.stderr is None:  # closed by the caller
        return
    kept: str = args.kept(args) if hasattr(args, "kept") else "unfinished files are as they were"
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # a line of progress
    print(f"{clear}pagemig: interrupted; {kept}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        Exit status.
    """
    args = argparse.Namespace()
    try:
        args = _parser().parse_args(argv)  # imports every command, half of what a short one takes
        status: int = args.main(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (`pagemig ... | head`): print nothing more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _say_interrupted(args)
        return 130
    except (OSError, ValueError) as error:
        print(f"pagemig: {_said(error)}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"pagemig: not enough memory: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
