# SPDX-License-Identifier: Apache-2.0
"""`kedge`, and `kubectl kedge` where kubectl finds us on the path."""

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 done, 1 refused or failed, 2 not understood."""
    # Until a command runs there is nothing to end in order: Ctrl-C just ends us.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kedge_controlplane.cli.app import app
    from kedge_controlplane.cli.console import complain, explain
    from kedge_controlplane.errors import ControlPlaneError

    signal.signal(signal.SIGINT, before)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="kedge")
    except ControlPlaneError as exc:
        complain(explain(exc))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
