# SPDX-License-Identifier: Apache-2.0
"""The demo's processes: one control plane, one agent per device.

Each runs in a session of its own, so that Ctrl-C in the terminal reaches the demo
alone, which then ends them in order. Each asks the kernel to die with the demo, so
SIGKILL leaves no orphan either. What they print goes to files in the demo's folder.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final, Self

from kedge_controlplane.errors import ProcessError

STOP_TIMEOUT_S: Final = 10.0
START_TIMEOUT_S: Final = 60.0


class Processes:
    """Starts processes and ends all of them on exit, whatever happened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, name: str, *arguments: str) -> None:
        """Start `python -m ARGUMENTS`, which must know --die-with-parent."""
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *arguments,
                "--die-with-parent",
                str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def until_written(self, name: str, path: Path) -> dict[str, Any]:
        """Wait for the JSON file by which process `name` says that it is ready.

        Raises:
            ProcessError: It ended, or wrote nothing in time.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(FileNotFoundError):
                document: dict[str, Any] = json.loads(_read(path))
                return document
            await asyncio.sleep(0.05)
        raise ProcessError(
            f"{name}: expected {path.name} within {START_TIMEOUT_S:g} s"
            f"{self._tail(name)}"
        )

    def check(self) -> None:
        """Raise ProcessError if any of them has ended."""
        for name, process in self._running.items():
            if process.returncode is not None:
                raise ProcessError(
                    f"{name}: ended with status {process.returncode}{self._tail(name)}"
                )

    async def stop(self) -> None:
        """End agents before the control plane; politely, then not."""
        running, self._running = self._running, {}
        for process in reversed(running.values()):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in running.values():
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()

    def _tail(self, name: str) -> str:
        text = (self._folder / f"{name}.log").read_text(errors="replace")
        lines = text.splitlines()[-15:]
        return "; the end of its log:\n  " + "\n  ".join(lines) if lines else ""


def _read(path: Path) -> bytes:
    return path.read_bytes()
