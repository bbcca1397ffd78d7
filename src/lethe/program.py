"""What every program shares: how it is called, and what its exit code means.

0 all done; 1 something failed or is incomplete; 2 the user can mend it (one message, no traceback); 130 Ctrl-C;
143 SIGTERM, as a machine sends it that is about to go.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable

from lethe.config import UserError


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, which ends a program as Ctrl-C does."""


def parser(doc: str | None, config: str = "a grid's YAML") -> argparse.ArgumentParser:
    """The command line CONFIG [key=value ...]; parse it with `parse_intermixed_args`."""
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("config", metavar="CONFIG", help=config)
    result.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="override a field, e.g. stage.tokens=50000"
    )
    return result


def run_program(main: Callable[[list[str]], int]) -> None:
    """Run `main(argv)` and exit with its code; a UserError is printed as it is and exits with 2."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        print(error, file=sys.stderr)
        code = 2
    except KeyboardInterrupt as stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second one must not cut the clean-up at exit short
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        code = 143 if isinstance(stop, TerminatedError) else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _terminate(number: int, frame: object) -> None:
    raise TerminatedError
