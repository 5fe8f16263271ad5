"""The command line: one file a verb; nothing heavy is imported before a verb runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from autocompress.cli.app import run


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 2 for a user's mistake, 1 for a fault of ours, 130 after Ctrl-C."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))
