# SPDX-License-Identifier: Apache-2.0
"""A device's whole life in one process, for tests of what it does with orders."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from tests.simulators.device import Device, device
from tests.simulators.repository import Repository

Life = AbstractAsyncContextManager[Device]


def life(folder: Path, repository: Repository, *, min_free_bytes: int = 0) -> Life:
    """Start a device on a folder; leaving the context stops it."""
    return device(
        folder, repository.keys, repository.blobs, min_free_bytes=min_free_bytes
    )


def serving(device: Device) -> int:
    """Generation that the simulated runtime serves; 0 is none."""
    loaded = device.host.simulated.serving
    return loaded.number if loaded else 0
