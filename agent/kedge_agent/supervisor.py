# SPDX-License-Identifier: Apache-2.0
"""The composition root: what `kedge-agent run` consists of, and in which order it ends.

    lock -> listeners -> identity -> journal and disk -> recover
        -> { runtime, reconcile, session, splice, signals }

The tasks in braces share one TaskGroup: if one of them fails, the others are cancelled
and the error leaves through `run`. SIGTERM and SIGINT cancel them all; the runtime is
asked to finish what is in flight. SIGKILL at any point is what `recover` is for.
Whatever can be refused is refused before the one-time token is spent; a start that has
neither identity nor enrolment file writes nothing.

Serving does not depend on the control plane: an enrolled device restores its generation
and answers before, and without, a session.
"""

import asyncio
import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from kedge_agent.disk import DiskThread, Store, write_atomically
from kedge_agent.enrolment import Identity, check_enrollable, enrol
from kedge_agent.errors import AgentError, SettingsError
from kedge_agent.facts import Facts
from kedge_agent.fetch.https import HttpsFetcher
from kedge_agent.journal import Journal
from kedge_agent.listeners import Splice, address_of, listen
from kedge_agent.reconcile import Reconciler, Serving
from kedge_agent.reports import Outbox
from kedge_agent.runtimes import RuntimePlan, RuntimeProcess
from kedge_agent.session import ControlSession
from kedge_agent.settings import Settings
from kedge_agent.transport.grpc import GrpcTransport
from kedge_agent.trust.verifier import Verifier
from kedge_agent.update import Parts
from kedge_wire.v1.session_pb2 import Hello
from kedge_wire.version import PROTOCOL

logger = logging.getLogger(__name__)

AGENT_VERSION: Final = importlib.metadata.version("kedge")

CONTROL_SOCKET: Final = "control.sock"
INFERENCE_SOCKET: Final = "inference.sock"
MAX_SOCKET_PATH: Final = 107  # bytes; unix(7)


class _Stop(Exception):  # noqa: N818  # not an error: a signal asked us to end
    """Ends the task group."""


async def run(settings: Settings) -> None:
    """Be this device's agent until a signal ends it.

    Raises:
        SettingsError: Something that a person must put right.
        StateError: The device's own records cannot be used.
    """
    check_enrollable(settings)
    with (
        _locked(settings.state_dir),
        listen(settings.serve_http) as http,
        listen(settings.serve_grpc) as grpc,
        _signals() as stop,
    ):
        facts = Facts.gather()
        identity = await _unless(stop, enrol(settings, facts))
        if identity is None:
            return
        async with AsyncExitStack() as stack:
            await _serve(
                settings, identity, facts, http=http, grpc=grpc, stop=stop, stack=stack
            )


async def _serve(
    settings: Settings,
    identity: Identity,
    facts: Facts,
    *,
    http: socket.socket,
    grpc: socket.socket,
    stop: asyncio.Event,
    stack: AsyncExitStack,
) -> None:
    serving = Serving(http=f"http://{address_of(http)}", grpc=str(address_of(grpc)))
    plan = _plan(settings, stack.enter_context(private_run_dir(settings)), http)
    runtime = RuntimeProcess(plan)
    parts = await stack.enter_async_context(_parts(settings, identity, runtime))
    outbox = Outbox(parts.journal, parts.disk)
    verifier = Verifier(
        device=identity.device,
        tenant=identity.tenant,
        keys=identity.keys,
        limits=settings.limits,
    )
    reconciler = Reconciler(parts, verifier=verifier, outbox=outbox, serving=serving)
    await reconciler.recover()
    _announce(settings, identity, serving)
    await _together(
        stop,
        runtime=runtime.run(hold=lambda: reconciler.serves, changed=reconciler.wake),
        reconcile=reconciler.run(),
        session=_introduced(
            _session(settings, identity, facts, reconciler, outbox),
            reconciler,
            timeout_s=settings.timing.introduction,
        ),
        splice=Splice(
            grpc,
            plan.inference_socket,
            connections=settings.limits.connections,
            grace_s=settings.timing.restart_grace,
        ).run(),
    )


def _session(
    settings: Settings,
    identity: Identity,
    facts: Facts,
    reconciler: Reconciler,
    outbox: Outbox,
) -> ControlSession:
    timing = settings.timing
    return ControlSession(
        GrpcTransport(identity.gateway, tls=settings.tls, timeout_s=timing.connect),
        reconciler,
        outbox=outbox,
        hello=lambda: _hello(reconciler, facts),
        timing=timing,
    )


async def _introduced(
    session: ControlSession, reconciler: Reconciler, *, timeout_s: float
) -> None:
    """Talk once Hello can say what the runtime offers, or after a while without."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await reconciler.observer.known.wait()
    await session.run()


@asynccontextmanager
async def _parts(
    settings: Settings, identity: Identity, runtime: RuntimeProcess
) -> AsyncIterator[Parts]:
    disk = DiskThread()
    try:
        store = await disk.run(
            Store,
            settings.state_dir,
            min_free_bytes=settings.limits.min_free_bytes,
        )
        journal = await disk.run(Journal, settings.journal_path)
        fetcher = HttpsFetcher(
            store,
            server=identity.server,
            tls=settings.tls,
            connect_s=settings.timing.connect,
            read_s=settings.timing.read,
        )
        try:
            yield Parts(
                store=store,
                journal=journal,
                disk=disk,
                fetcher=fetcher,
                runtime=runtime,
                timing=settings.timing,
            )
        finally:
            fetcher.close()
            await disk.run(journal.close)
    finally:
        disk.close()


async def _together(stop: asyncio.Event, **work: Coroutine[Any, Any, None]) -> None:
    """Run all until one fails or a signal comes; raise the first failure."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for name, coroutine in work.items():
                tasks.create_task(coroutine, name=name)
            tasks.create_task(_raise_on(stop), name="signals")
    except* _Stop:
        logger.info("stopped")
    except* AgentError as group:
        # One part's failure is the reason; the others were only cancelled.
        raise _first(group) from None


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _raise_on(stop: asyncio.Event) -> None:
    await stop.wait()
    raise _Stop


async def _unless(
    stop: asyncio.Event, work: Coroutine[Any, Any, Identity]
) -> Identity | None:
    task = asyncio.create_task(work, name="enrol")
    ended = asyncio.create_task(stop.wait(), name="signals")
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        ended.cancel()
        await asyncio.gather(task, ended, return_exceptions=True)


@contextmanager
def private_run_dir(settings: Settings) -> Iterator[Path]:
    """A private folder for Unix sockets: the kernel allows them short paths only."""
    folder = settings.run_dir
    if len(os.fsencode(folder / INFERENCE_SOCKET)) <= MAX_SOCKET_PATH:
        folder.mkdir(mode=0o700, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="kedge-") as short:
        yield Path(short)


def _plan(settings: Settings, run_dir: Path, http: socket.socket) -> RuntimePlan:
    return RuntimePlan(
        command=settings.runtime_command,
        control_socket=run_dir / CONTROL_SOCKET,
        inference_socket=run_dir / INFERENCE_SOCKET,
        http_fd=http.fileno(),
        timing=settings.timing,
    )


def _hello(reconciler: Reconciler, facts: Facts) -> Hello:
    observed = reconciler.observer.status.facts
    return Hello(
        protocol=PROTOCOL,
        agent_version=AGENT_VERSION,
        generation=reconciler.held_generation,
        facts=facts.to_wire(
            providers=tuple(observed.providers),
            runtime_versions=observed.runtime_versions,
        ),
    )


def _announce(settings: Settings, identity: Identity, serving: Serving) -> None:
    document = {"http": serving.http, "grpc": serving.grpc, "pid": os.getpid()}
    write_atomically(
        settings.serving_path, json.dumps(document).encode() + b"\n", mode=0o644
    )
    logger.info(
        "serving: device=%s http=%s grpc=%s",
        identity.device,
        serving.http,
        serving.grpc,
    )


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """Hold the state directory; two agents on one would undo each other's work."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (state_dir / "lock").open("a")
    except OSError as exc:
        raise SettingsError(
            f"state directory: expected a writable {state_dir}, found {exc.strerror}",
            element=str(state_dir),
        ) from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise SettingsError(
                f"state directory: expected {state_dir} to be free, found another "
                "agent running on it",
                element=str(state_dir),
            ) from exc
        yield


@contextmanager
def _signals() -> Iterator[asyncio.Event]:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            with contextlib.suppress(ValueError):
                loop.remove_signal_handler(number)
