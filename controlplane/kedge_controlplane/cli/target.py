# SPDX-License-Identifier: Apache-2.0
"""Files that a command writes for its caller: with mode 0600, there whole or not."""

import os
from pathlib import Path

from kedge_controlplane.errors import InputError
from kedge_controlplane.trust.files import write_private


def check_target(path: Path) -> None:
    """Make the file's folder; raise InputError where no file can be written.

    For commands that do what cannot be done twice before they have what to write.
    """
    try:
        if not path.name or path.is_dir():
            raise InputError(f"{path}: expected the name of a file, found a folder")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise InputError(f"{path}: expected a folder that can be written to")
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}") from exc


def write_target(path: Path, content: bytes) -> None:
    """Write the file; raises InputError where that fails."""
    check_target(path)
    try:
        write_private(path, content)
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}") from exc
