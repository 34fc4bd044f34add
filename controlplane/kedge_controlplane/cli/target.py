# SPDX-License-Identifier: Apache-2.0
"""Files that a command writes for its caller: with mode 0600, there whole or not.

The folder is the caller's to make, and a file that is there stays unless it says so: a
mistyped path costs nothing.
"""

import os
from pathlib import Path

from kedge_controlplane.errors import InputError
from kedge_controlplane.trust.files import write_private


def check_target(path: Path, *, force: bool) -> None:
    """Raise InputError where no file can, or without `force` may, be written.

    For commands that do what cannot be done twice before they have what to write.
    """
    try:
        if not path.name or path.is_dir():
            raise InputError(f"{path}: expected the name of a file, found a folder")
        if not path.parent.is_dir():
            raise InputError(
                f"{path}: expected its folder {path.parent} to be there, found none"
            )
        if not force and os.path.lexists(path):
            raise InputError(
                f"{path}: expected a new file, found one that is there",
                advice="Name another, or replace it with --force.",
            )
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise InputError(f"{path}: expected a folder that can be written to")
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}") from exc


def write_target(path: Path, content: bytes, *, force: bool) -> None:
    """Write the file; raises InputError where that fails."""
    check_target(path, force=force)
    try:
        write_private(path, content)
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}") from exc
