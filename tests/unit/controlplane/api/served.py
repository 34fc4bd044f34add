# SPDX-License-Identifier: Apache-2.0
"""The API on a real TLS port of this machine."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette

from kedge_controlplane.api.tls import TlsFiles, serve
from kedge_controlplane.trust.ca import CertificateAuthority
from tests.unit.controlplane.api.conftest import now


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    url: str
    stop: asyncio.Event
    ended: asyncio.Task[None]


@contextlib.asynccontextmanager
async def served(
    app: Starlette, authority: CertificateAuthority, folder: Path
) -> AsyncIterator[Served]:
    """Serve until the end of the block."""
    certificate = authority.server_certificate(["localhost", "127.0.0.1"], now=now())
    root = folder / "root.pem"
    root.write_bytes(authority.root_pem)
    listener = socket.create_server(("127.0.0.1", 0))
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(
        serve(
            app,
            listener=listener,
            tls=TlsFiles(
                certificate=certificate.path,
                key=certificate.path,
                client_authority=root,
            ),
            stop=stop,
            ready=ready.set,
        )
    )
    try:
        await asyncio.wait_for(ready.wait(), 10)
        port = listener.getsockname()[1]
        yield Served(url=f"https://127.0.0.1:{port}", stop=stop, ended=task)
    finally:
        stop.set()
        await asyncio.wait({task}, timeout=20)
        if not task.cancelled():
            task.result()


def trusting(authority: CertificateAuthority) -> ssl.SSLContext:
    """A client's context that knows our root."""
    return ssl.create_default_context(cadata=authority.root_pem.decode())
