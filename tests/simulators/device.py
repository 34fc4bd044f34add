# SPDX-License-Identifier: Apache-2.0
"""The deciding half of a device in the test's own process.

Disk, journal, verifier, reconciler and control protocol are the real ones; the runtime
behind the socket is simulated.

A `Device` is one life of the agent. Leaving it and making another one on the same
folder is a restart; its runtime does not outlive it.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kedge_agent.backoff import Backoff
from kedge_agent.disk import DiskThread, Fs, Store
from kedge_agent.fetch.memory import MemoryFetcher
from kedge_agent.journal import Journal
from kedge_agent.reconcile import Reconciler, Serving
from kedge_agent.reports import Outbox
from kedge_agent.runtime_client import RuntimeClient
from kedge_agent.runtimes import RuntimePlan, RuntimeProcess
from kedge_agent.settings import Limits, Timing
from kedge_agent.trust.keys import TrustedKeys
from kedge_agent.trust.verifier import Verifier
from kedge_agent.update import Parts
from kedge_wire.v1.report_pb2 import Phase, Report
from tests.simulators.repository import DEVICE, TENANT
from tests.simulators.runtime import SimulatedRuntime, serve_control

TIMING = replace(
    Timing(),
    health_window=0.005,
    status_poll=0.05,
    runtime_start=5.0,
    control=5.0,
    prepare=5.0,
    retry_min=0.01,
    retry_max=0.02,
    status_report=0.05,
)
_NUMBERS = itertools.count()  # a gRPC server removes its socket late: no two share one
SETTLED = (Phase.PHASE_UPDATED, Phase.PHASE_ERROR)


class RuntimeHost:
    """Stands for the process: `crash` ends an incarnation and starts the next.

    The control socket is real: calls into a dead incarnation fail as they would.
    """

    def __init__(self, folder: Path) -> None:
        plan = RuntimePlan(
            command=(),
            control_socket=folder / "control.sock",
            inference_socket=folder / "inference.sock",
            http_fd=0,
            timing=TIMING,
        )
        self.process = RuntimeProcess(plan)
        self.process.kill = self._kill  # type: ignore[method-assign]  # no process here
        self.simulated = SimulatedRuntime(die=self.crash)
        self.crashes = 0
        self.reconciler: Reconciler | None = None
        self._folder = folder
        self._ended = asyncio.Event()

    def crash(self) -> None:
        self.crashes += 1
        self._ended.set()

    def _kill(self) -> None:
        self.process._set_client(None)
        self._ended.set()

    async def run(self) -> None:
        while True:
            self._ended.clear()
            self.simulated.reset()
            path = self._folder / f"control-{next(_NUMBERS)}.sock"
            server = await serve_control(self.simulated, path)
            client = RuntimeClient(path, timing=TIMING)
            try:
                self.process.incarnation += 1
                self._announce(client)
                await self._ended.wait()
            finally:
                await server.stop(grace=None)
                self._announce(None)
                await client.close()

    def _announce(self, client: RuntimeClient | None) -> None:
        self.process._set_client(client)
        if self.reconciler is not None:
            self.reconciler.wake()


class ListeningOutbox(Outbox):
    """Keeps every report for the test to look at."""

    def __init__(self, journal: Journal, disk: DiskThread) -> None:
        super().__init__(journal, disk)
        self.reports: list[Report] = []
        self.news = asyncio.Condition()

    async def put(self, content: Report, *, now_s: float) -> None:
        await super().put(content, now_s=now_s)
        if self.pending is not None and self.pending not in self.reports[-1:]:
            self.reports.append(self.pending)
            async with self.news:
                self.news.notify_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    reconciler: Reconciler
    parts: Parts
    outbox: "ListeningOutbox"
    host: RuntimeHost
    reports: list[Report]
    tasks: list[asyncio.Task[None]]

    @property
    def phases(self) -> list[str]:
        """Each phase that was reported, without repetitions."""
        names = [Phase.Name(report.phase)[6:] for report in self.reports]
        return [n for i, n in enumerate(names) if i == 0 or names[i - 1] != n]

    async def settled(self, generation: int) -> Report:
        """Wait until the update towards `generation` has ended, in whichever way."""
        return await self.until(
            lambda r: r.generation == generation and r.phase in SETTLED
        )

    async def until(
        self, wanted: Callable[[Report], bool], *, timeout_s: float = 10
    ) -> Report:
        """Wait for the newest report to be as wanted."""
        async with asyncio.timeout(timeout_s), self.outbox.news:
            await self.outbox.news.wait_for(
                lambda: bool(self.reports) and wanted(self.reports[-1])
            )
        return self.reports[-1]


@asynccontextmanager
async def device(
    folder: Path,
    keys: TrustedKeys,
    blobs: Mapping[str, bytes],
    *,
    fs: Fs | None = None,
    min_free_bytes: int = 0,
    run: bool = True,
) -> AsyncIterator[Device]:
    """One life of a device whose state is in `folder`."""
    disk = DiskThread()
    host = RuntimeHost(folder)
    store = await disk.run(Store, folder, fs=fs, min_free_bytes=min_free_bytes)
    journal = await disk.run(Journal, folder / "journal.db")
    fetcher = MemoryFetcher(
        store, blobs, backoff=lambda: Backoff(first_s=0.001, longest_s=0.002)
    )
    parts = Parts(
        store=store,
        journal=journal,
        disk=disk,
        fetcher=fetcher,
        runtime=host.process,
        timing=TIMING,
    )
    outbox = ListeningOutbox(journal, disk)
    verifier = Verifier(device=DEVICE, tenant=TENANT, keys=keys, limits=Limits())
    serving = Serving(http="http://h:1", grpc="h:2")
    reconciler = Reconciler(parts, verifier=verifier, outbox=outbox, serving=serving)
    host.reconciler = reconciler
    tasks = []
    try:
        await reconciler.recover()
        if run:
            tasks.append(asyncio.create_task(host.run(), name="runtime"))
            tasks.append(asyncio.create_task(reconciler.run(), name="reconcile"))
        yield Device(
            reconciler=reconciler,
            parts=parts,
            outbox=outbox,
            host=host,
            reports=outbox.reports,
            tasks=tasks,
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        fetcher.close()
        await disk.run(journal.close)
        disk.close()
