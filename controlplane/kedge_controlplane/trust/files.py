# SPDX-License-Identifier: Apache-2.0
"""Private files that are there whole or not at all.

A write goes to a temporary file beside the target, is synced and renamed. Killed at any
point, the target is the old file or the new one; a left-over temporary file is
overwritten by the next write.
"""

import os
from collections.abc import Callable
from pathlib import Path

_MODE = 0o600


def write_private(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, readable by its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_or_create(path: Path, create: Callable[[], bytes]) -> bytes:
    """Return the content of `path`, which `create` provides the first time."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        content = create()
        write_private(path, content)
        return content
