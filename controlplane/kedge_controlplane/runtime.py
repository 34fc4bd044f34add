# SPDX-License-Identifier: Apache-2.0
"""The composition root: every part of one control plane, started and stopped in order.

    start: locks ─▶ migration ─▶ store, blobs, trust ─▶ sockets
           ─▶ controllers, gateway, API ─▶ ready
    stop:  API drains ─▶ sessions end ─▶ controllers are cancelled
           ─▶ leases are flushed ─▶ store is closed

Killed at any point, the next start goes on from what was committed; nothing has to be
repaired. One process uses a data folder, and a database file, at a time. Everything
runs in the caller's event loop.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Final

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from kedge_controlplane.admission.admission import Admission
from kedge_controlplane.api import tls
from kedge_controlplane.api.app import build_app
from kedge_controlplane.api.auth import StoreAuthenticator
from kedge_controlplane.api.seams import ServerInfo as ApiFacts
from kedge_controlplane.blobs.folder import FolderBlobs
from kedge_controlplane.controllers.device import DeviceController
from kedge_controlplane.controllers.fleet import FleetController
from kedge_controlplane.errors import SettingsError, TrustError
from kedge_controlplane.reconcile.clock import Clock, SystemClock
from kedge_controlplane.reconcile.loop import Controller, Key, Loop
from kedge_controlplane.sessions.grpc import Gateway, GatewayServer, ServerKeys
from kedge_controlplane.sessions.hub import Hub
from kedge_controlplane.sessions.ingest import Ingest
from kedge_controlplane.sessions.leases import LeaseBook
from kedge_controlplane.settings import DATABASE_URL, Address, Settings
from kedge_controlplane.store.migrate import current, upgrade
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.admin import write_admin
from kedge_controlplane.trust.ca import CertificateAuthority, ServerCertificate
from kedge_controlplane.trust.director import Director
from kedge_controlplane.trust.enrolment import Enrolment
from kedge_controlplane.trust.files import write_private
from kedge_controlplane.upkeep import Upkeep

logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """Where a running server is; also the content of `<data>/server.json`."""

    api: str  # https://host:port
    gateway: str  # host:port
    pid: int
    kubeconfig: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What outlives every connection."""

    clock: Clock
    store: Store
    blobs: FolderBlobs
    authority: CertificateAuthority
    director: Director


async def serve(
    settings: Settings,
    *,
    ready: Callable[[ServerInfo], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Run a control plane until SIGTERM, SIGINT, `stop` or cancellation.

    Args:
        settings: What `read_settings` returned.
        ready: Called once both ports answer.
        stop: Set it to stop; for callers that have no signals to send.

    Raises:
        SettingsError: Another process uses the folder or the database, a port is
            taken, the database has another revision, or a file under `trust` is
            damaged.
    """
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    stop = stop or asyncio.Event()
    with (
        _locked(settings.data / "lock"),
        _locked(_database_lock(settings)),
        _stopping_on_signals(stop),
        _bound(settings.listen) as listener,
    ):
        async with _opened(settings) as parts:
            await _run(settings, parts, listener=listener, stop=stop, ready=ready)


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[_Parts]:
    clock = SystemClock()
    url = settings.database_url
    if settings.migrate or (url.startswith("sqlite") and await current(url) is None):
        await upgrade(url)
    async with contextlib.AsyncExitStack() as stack:
        store = await Store.open(url, clock=clock.now)
        stack.push_async_callback(store.close)
        blobs = await FolderBlobs.at(settings.data / "blobs")
        stack.push_async_callback(blobs.close)
        try:
            authority = CertificateAuthority.open(
                settings.data / "trust", now=clock.now()
            )
            director = Director.open(settings.data / "trust")
        except TrustError as exc:
            raise SettingsError(f"{settings.data / 'trust'}: {exc}") from exc
        yield _Parts(
            clock=clock,
            store=store,
            blobs=blobs,
            authority=authority,
            director=director,
        )


async def _run(
    settings: Settings,
    parts: _Parts,
    *,
    listener: socket.socket,
    stop: asyncio.Event,
    ready: Callable[[ServerInfo], None],
) -> None:
    def changed(device: Key) -> None:
        devices.add(device)  # made below; sessions come later

    hub = Hub(changed=changed)
    leases = LeaseBook(
        store=parts.store,
        clock=parts.clock,
        offline_after=settings.limits.offline_after,
        every=settings.limits.lease_flush,
    )
    await leases.load()
    devices = _loop(settings, parts, _device_controller(parts, hub, leases))
    fleets = _loop(settings, parts, _fleet_controller(parts))
    upkeep = _upkeep(settings, parts)
    gateway = _gateway(parts, hub, leases, upkeep.certificate)
    contexts: list[ssl.SSLContext] = []

    def renewed(certificate: ServerCertificate) -> None:
        gateway.renew(_keys(parts, certificate))
        for context in contexts:
            context.load_cert_chain(certificate.path)

    port = await gateway.start(str(settings.gateway))
    try:
        info = _info(settings, api_port=listener.getsockname()[1], gateway_port=port)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(devices.run(), name="devices"),
                tasks.create_task(fleets.run(), name="fleets"),
                tasks.create_task(leases.run(devices.add), name="leases"),
                tasks.create_task(upkeep.run(renewed), name="upkeep"),
            ]
            await _serve_api(
                settings,
                parts,
                info,
                listener=listener,
                certificate=upkeep.certificate.path,
                stop=stop,
                ready=ready,
                secured=contexts.append,
            )
            hub.end_all("the control plane stops")
            await gateway.stop(grace=settings.limits.session_grace)
            for task in background:
                task.cancel()
    finally:
        await gateway.stop(grace=timedelta())
        await leases.flush()


async def _serve_api(
    settings: Settings,
    parts: _Parts,
    info: ServerInfo,
    *,
    listener: socket.socket,
    certificate: Path,
    stop: asyncio.Event,
    ready: Callable[[ServerInfo], None],
    secured: Callable[[ssl.SSLContext], None],
) -> None:
    """Announce the server once its API answers; serve it until told to stop."""
    await write_admin(
        parts.store,
        Path(info.kubeconfig),
        server=info.api,
        ca_pem=parts.authority.root_pem,
        now=parts.clock.now(),
    )

    def announce() -> None:
        document = json.dumps(asdict(info), indent=2) + "\n"
        write_private(settings.data / "server.json", document.encode())
        logger.info("serving api=%s gateway=%s", info.api, info.gateway)
        ready(info)

    app = build_app(
        store=parts.store,
        blobs=parts.blobs,
        admission=Admission(parts.store, parts.blobs),
        enrolment=Enrolment(
            store=parts.store, authority=parts.authority, now=parts.clock.now
        ),
        authenticator=StoreAuthenticator(parts.store, clock=parts.clock.now),
        info=ApiFacts(
            version=version("kedge"),
            gateway=info.gateway,
            director_keys=parts.director.public_keys,
        ),
        clock=parts.clock.now,
    )
    files = tls.TlsFiles(
        certificate=certificate,
        key=certificate,
        client_authority=settings.data / "trust" / "ca.pem",
    )
    await tls.serve(
        app,
        listener=listener,
        tls=files,
        stop=stop,
        ready=announce,
        secured=secured,
    )


def _info(settings: Settings, *, api_port: int, gateway_port: int) -> ServerInfo:
    host = settings.advertised_host
    return ServerInfo(
        api=f"https://{Address(host=host, port=api_port)}",
        gateway=str(Address(host=host, port=gateway_port)),
        pid=os.getpid(),
        kubeconfig=str(settings.data / "kubeconfig"),
    )


def _device_controller(parts: _Parts, hub: Hub, leases: LeaseBook) -> DeviceController:
    return DeviceController(
        store=parts.store,
        clock=parts.clock,
        director=parts.director,
        sessions=hub,
        leases=leases,
    )


def _fleet_controller(parts: _Parts) -> FleetController:
    return FleetController(
        store=parts.store, clock=parts.clock, listening_since=parts.clock.now()
    )


def _upkeep(settings: Settings, parts: _Parts) -> Upkeep:
    return Upkeep(
        store=parts.store,
        clock=parts.clock,
        authority=parts.authority,
        names=settings.certificate_names,
        every=settings.limits.upkeep,
        keep_tokens=settings.limits.keep_tokens,
    )


def _keys(parts: _Parts, certificate: ServerCertificate) -> ServerKeys:
    return ServerKeys(
        key_pem=certificate.key_pem,
        chain_pem=certificate.chain_pem,
        devices_root_pem=parts.authority.root_pem,
    )


def _gateway(
    parts: _Parts, hub: Hub, leases: LeaseBook, certificate: ServerCertificate
) -> GatewayServer:
    gateway = Gateway(
        store=parts.store,
        hub=hub,
        ingest=Ingest(store=parts.store, clock=parts.clock),
        leases=leases,
    )
    return GatewayServer(gateway, keys=_keys(parts, certificate))


def _loop(settings: Settings, parts: _Parts, controller: Controller) -> Loop:
    return Loop(
        controller,
        store=parts.store,
        clock=parts.clock,
        parallel=settings.limits.parallel,
        resync=settings.limits.resync,
    )


@contextlib.contextmanager
def _bound(address: Address) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.host, address.port))
        except OSError as exc:
            raise SettingsError(f"--listen: cannot listen on {address}: {exc}") from exc
        yield listener


def _database_lock(settings: Settings) -> Path:
    """Name the lock of the database, which may be outside of the data folder."""
    try:
        url = make_url(settings.database_url)
    except ArgumentError as exc:
        raise SettingsError(f"{DATABASE_URL}: expected a database URL") from exc
    if url.get_backend_name() != "sqlite" or url.database in (None, ":memory:"):
        return settings.data / "database.lock"  # no file that others could open
    file = Path(str(url.database)).resolve()
    return file.with_name(f"{file.name}.lock")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other servers off what `path` stands for; it dies with the process."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise SettingsError(
                f"{path.parent}: expected a folder that no server uses, found "
                f"{path.name} in use"
            ) from exc
        except OSError as exc:
            raise SettingsError(f"{path}: expected a lock: {exc}") from exc
        yield


@contextlib.contextmanager
def _stopping_on_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
