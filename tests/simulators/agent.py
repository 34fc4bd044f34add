# SPDX-License-Identifier: Apache-2.0
"""The real `kedge-agent` as a process, with a simulated runtime behind it."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.simulators.gateway import Gateway, serving
from tests.simulators.pki import Authority
from tests.simulators.repository import TENANT, TOKEN, BlobServer, Repository

ROOT = Path(__file__).parents[2]
QUICK = {
    "HEALTH_WINDOW": "0.1",
    "STATUS_POLL": "0.2",
    "RECONNECT_MIN": "0.05",
    "RECONNECT_MAX": "0.3",
    "RETRY_MIN": "0.1",
    "RETRY_MAX": "0.3",
    "BEAT": "0.5",
}
PATIENCE = 40
"""Seconds for what takes two: the machine may be busy."""


@dataclass
class Site:
    """A control plane, and the folder of one device."""

    folder: Path
    gateway: Gateway
    repository: Repository
    server: BlobServer
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @asynccontextmanager
    async def agent(self) -> AsyncIterator["Agent"]:
        """One process; killed at the end, if it has not ended by then."""
        agent = await Agent.start(self)
        try:
            yield agent
        finally:
            await agent.end(signal.SIGKILL)

    def write_enrolment(self) -> Path:
        path = self.folder / "enrolment.json"
        document = {
            "apiVersion": "kedge.dev/v1alpha1",
            "kind": "EnrolmentFile",
            "server": self.server.url,
            "namespace": TENANT,
            "token": TOKEN,
            "ca": self.server.authority.pem.decode(),
            "gateway": self.gateway.target,
            **self.repository.key_documents,
        }
        path.write_text(json.dumps(document))
        return path


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    authority, gateway, repository = Authority(), Gateway(), Repository()
    with BlobServer(repository.blobs, authority, folder) as server:
        async with serving(gateway, authority) as gateway.target:
            yield Site(
                folder=folder, gateway=gateway, repository=repository, server=server
            )


class Agent:
    """One life. `log` is what it has written; `http` and `grpc` where it serves."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.log: list[str] = []
        self.http = self.grpc = ("", 0)
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, site: Site, *more: str) -> Self:
        quick = {f"KEDGE_AGENT_{k}_SECONDS": v for k, v in QUICK.items()}
        runtime = f"{sys.executable} -m tests.simulators.runtime"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kedge_agent", "run"),
            *("--state-dir", str(site.state)),
            *("--enrollment", str(site.write_enrolment())),
            *("--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0"),
            *more,
            cwd=ROOT,
            env=os.environ | quick | {"KEDGE_AGENT_RUNTIME": runtime} | site.environ,
            stderr=PIPE,
        )
        return cls(process)

    async def logged(self, text: str) -> str:
        """Wait for a line that contains `text`."""
        async with asyncio.timeout(PATIENCE), self._news:
            while True:
                for line in self.log:
                    if text in line:
                        return line
                if self._reader.done():
                    raise AssertionError(f"no {text!r} in " + "".join(self.log))
                await self._news.wait()

    async def serving(self) -> None:
        """Wait for the addresses."""
        words = dict(
            word.split("=", 1)
            for word in (await self.logged("serving: ")).split()
            if "=" in word
        )
        self.http = _address(words["http"].removeprefix("http://"))
        self.grpc = _address(words["grpc"])

    async def ask(self) -> dict[str, Any]:
        """What the runtime tells an HTTP client."""
        data = await _exchange(self.http, b"GET / HTTP/1.1\r\n")
        document: dict[str, Any] = json.loads(data.partition(b"\r\n\r\n")[2])
        return document

    async def ask_splice(self) -> dict[str, Any]:
        """What it tells a client of the gRPC address."""
        document: dict[str, Any] = json.loads(await _exchange(self.grpc, b"hello\n"))
        return document

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; return the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await self._reader
        return code

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            async with self._news:
                self.log.append(line.decode())
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()


async def _exchange(address: tuple[str, int], request: bytes) -> bytes:
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)
