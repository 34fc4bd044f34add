# SPDX-License-Identifier: Apache-2.0
"""`kedge`, and `kubectl kedge` where kubectl finds us on the path."""

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final, NoReturn

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 done, 1 refused or failed, 2 not understood, 130 interrupted."""
    before = signal.signal(signal.SIGINT, _interrupted)
    try:
        from kedge_controlplane.cli.app import app
        from kedge_controlplane.cli.console import complain, explain
        from kedge_controlplane.errors import ControlPlaneError

        try:
            app(args=None if arguments is None else list(arguments), prog_name="kedge")
        except ControlPlaneError as exc:
            complain(explain(exc))
            return 1
        return 0
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    """End in order and without a word; servers and the demo put their own in place."""
    sys.exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
