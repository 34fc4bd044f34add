# SPDX-License-Identifier: Apache-2.0
"""The real operator API over real TLS, on a thread with a loop of its own.

Tests call the command line in their own thread, as an operator's process would.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from kedge_controlplane.admission.admission import Admission
from kedge_controlplane.api.app import build_app
from kedge_controlplane.api.auth import StoreAuthenticator
from kedge_controlplane.api.seams import ServerInfo
from kedge_controlplane.api.tls import TlsFiles, serve
from kedge_controlplane.blobs.memory import MemoryBlobs
from kedge_controlplane.store import tokens
from kedge_controlplane.store.migrate import upgrade
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.ca import CertificateAuthority
from kedge_controlplane.trust.director import Director
from kedge_controlplane.trust.enrolment import Enrolment
from kedge_controlplane.trust.kubeconfig import write_kubeconfig
from kedge_controlplane.trust.tokens import Purpose, new_token, read_token

R = TypeVar("R")

TIMEOUT_S = 20


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorApi:
    """A running server; `call` runs something in its loop, as a controller would."""

    store: Store
    blobs: MemoryBlobs
    director: Director
    loop: asyncio.AbstractEventLoop

    def call(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_S)


@contextmanager
def running_api(folder: Path) -> Iterator[OperatorApi]:
    """Serve until the block ends; the kubeconfig is `folder`/kubeconfig."""
    ready = threading.Event()
    running: list[OperatorApi] = []
    ends: list[Callable[[], None]] = []

    def run() -> None:
        asyncio.run(_serve(folder, running, ends, ready))

    thread = threading.Thread(target=run, name="operator-api")
    thread.start()
    try:
        assert ready.wait(TIMEOUT_S)
        yield running[0]
    finally:
        for end in ends:
            running[0].loop.call_soon_threadsafe(end)
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


async def _serve(
    folder: Path,
    running: list[OperatorApi],
    ends: list[Callable[[], None]],
    ready: threading.Event,
) -> None:
    url = f"sqlite+aiosqlite:///{folder}/kedge.db"
    await upgrade(url)
    store, blobs = await Store.open(url), MemoryBlobs()
    authority = CertificateAuthority.open(folder / "trust", now=utc_now())
    director = Director.open(folder / "trust")
    certificate = authority.server_certificate(["127.0.0.1"], now=utc_now())
    listener = socket.create_server(("127.0.0.1", 0))
    server = f"https://127.0.0.1:{listener.getsockname()[1]}"
    write_kubeconfig(
        folder / "kubeconfig",
        server=server,
        ca_pem=authority.root_pem,
        token=await _operator_token(store),
    )
    app = build_app(
        store=store,
        blobs=blobs,
        admission=Admission(store, blobs),
        enrolment=Enrolment(store=store, authority=authority, now=utc_now),
        authenticator=StoreAuthenticator(store, clock=utc_now),
        info=ServerInfo(
            version="9.9.9", gateway="127.0.0.1:1", director_keys=director.public_keys
        ),
    )
    stop = asyncio.Event()
    ends.append(stop.set)
    running.append(
        OperatorApi(
            store=store,
            blobs=blobs,
            director=director,
            loop=asyncio.get_running_loop(),
        )
    )
    files = TlsFiles(
        certificate=certificate.path,
        key=certificate.path,
        client_authority=folder / "trust" / "ca.pem",
    )
    try:
        await serve(app, listener=listener, tls=files, stop=stop, ready=ready.set)
    finally:
        await store.close()


async def _operator_token(store: Store) -> str:
    text = new_token(Purpose.OPERATOR)
    presented = read_token(text)
    row = tokens.Token(
        id=presented.id,
        namespace="",
        purpose=Purpose.OPERATOR,
        secret_sha256=presented.secret_sha256,
        user="admin",
        created=utc_now(),
    )
    await store.write(lambda within: tokens.add(within, row))
    return text
