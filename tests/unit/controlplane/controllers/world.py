# SPDX-License-Identifier: Apache-2.0
"""Both controllers over a real store, and devices that answer through the real ingest.

Only transport and time are simulated: sessions hand messages over in memory, the clock
is moved by hand.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from kedge_controlplane.controllers.device import DeviceController
from kedge_controlplane.controllers.fleet import FleetController
from kedge_controlplane.errors import NotFoundError
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.rollout import Rollout, RolloutPhase
from kedge_controlplane.reconcile.clock import ManualClock
from kedge_controlplane.reconcile.loop import Controller, Key, Loop
from kedge_controlplane.sessions.base import DeviceSession
from kedge_controlplane.sessions.hub import Hub
from kedge_controlplane.sessions.ingest import Ingest
from kedge_controlplane.sessions.leases import LeaseBook
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.watch import Watch
from kedge_controlplane.trust.director import Director
from kedge_wire.v1.order_pb2 import Order
from kedge_wire.v1.report_pb2 import Report
from kedge_wire.v1.session_pb2 import ServerMessage
from tests.simulators.controlplane import NAMESPACE, START, migrated_store, named
from tests.simulators.enrolled_device import succeeded

T = TypeVar("T", bound=Resource)

WAIT_S = 20.0
SECOND = timedelta(seconds=1)


class MemoryDevice(DeviceSession):
    """A connected device; `answer` says what it makes of an order, if anything."""

    def __init__(
        self,
        key: Key,
        *,
        hub: Hub,
        ingest: Ingest,
        answer: Callable[[Order], Report | None],
    ) -> None:
        super().__init__(key)
        self._hub = hub
        self._ingest = ingest
        self._inbox: asyncio.Queue[ServerMessage] = asyncio.Queue()
        self.answer = answer
        self.generation = 0
        self.sequence = 0
        self.orders: list[Order] = []
        self.ended = ""

    def send(self, message: ServerMessage) -> bool:
        self._inbox.put_nowait(message)
        return not self.ended

    def end(self, reason: str) -> None:
        self.ended = reason

    async def live(self) -> None:
        while True:
            message = await self._inbox.get()
            order = Order.FromString(message.order.payload)
            if order.generation <= self.generation:
                continue
            self.generation = order.generation
            self.orders.append(order)
            self._hub.note_generation(self, order.generation)
            report = self.answer(order)
            if report is not None:
                await self.report(report)

    async def report(self, report: Report) -> None:
        self.sequence += 1
        report.sequence = self.sequence
        await self._ingest.report(self.device, report)


@dataclass(slots=True, kw_only=True)
class World:
    store: Store
    clock: ManualClock
    hub: Hub
    leases: LeaseBook
    ingest: Ingest
    director: Director
    controllers: dict[str, Controller]
    loops: dict[str, Loop]
    tasks: asyncio.TaskGroup
    devices: dict[str, MemoryDevice] = field(default_factory=dict)
    running: list[asyncio.Task[None]] = field(default_factory=list)

    async def add_device(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        answer: Callable[[Order], Report | None] = succeeded,
        connected: bool = True,
    ) -> MemoryDevice:
        await self.store.create(Device(metadata=named(name, labels)))
        key = Key(NAMESPACE, name)
        device = MemoryDevice(key, hub=self.hub, ingest=self.ingest, answer=answer)
        self.devices[name] = device
        self.running.append(self.tasks.create_task(device.live(), name=name))
        if connected:
            self.connect(device)
        return device

    def connect(self, device: MemoryDevice) -> None:
        self.leases.renew(device.device)
        self.hub.open(device, generation=device.generation)

    async def get(self, cls: type[T], name: str) -> T:
        return await self.store.get(cls, NAMESPACE, name)

    async def until(self, cls: type[T], name: str, holds: Callable[[T], bool]) -> T:
        """Wait for an object to come into a state."""
        watch: Watch[T] = self.store.watch(cls)
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    found = await self._find(cls, name)
                    if found is not None and holds(found):
                        return found
                    await anext(watch)
        finally:
            watch.close()

    async def until_phase(self, rollout: str, phase: RolloutPhase) -> Rollout:
        return await self.until(Rollout, rollout, lambda r: r.status.phase is phase)

    async def until_fleet(self, name: str, holds: Callable[[Fleet], bool]) -> Fleet:
        return await self.until(Fleet, name, holds)

    async def resync(self) -> None:
        """Have everything reconciled once more, to the end."""
        for name, loop in self.loops.items():
            for key in await self.controllers[name].all_keys():
                loop.add(key)
        for loop in self.loops.values():
            await loop.settled()

    async def restart(self) -> None:
        """End the controllers as a crash does, and start new ones."""
        await self.stop()
        self.start()

    async def stop(self) -> None:
        """End the controllers as a crash does."""
        loops = [task for task in self.running if task.get_name().startswith("loop ")]
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        self.running = [task for task in self.running if task not in loops]

    def start(self) -> None:
        self.controllers = {
            "devices": DeviceController(
                store=self.store,
                clock=self.clock,
                director=self.director,
                sessions=self.hub,
                leases=self.leases,
            ),
            "fleets": FleetController(
                store=self.store,
                clock=self.clock,
                listening_since=self.clock.now(),
            ),
        }
        for name, controller in self.controllers.items():
            loop = Loop(controller, store=self.store, clock=self.clock)
            self.loops[name] = loop
            task = self.tasks.create_task(loop.run(), name=f"loop {name}")
            self.running.append(task)

    async def _find(self, cls: type[T], name: str) -> T | None:
        try:
            return await self.get(cls, name)
        except NotFoundError:
            return None


@asynccontextmanager
async def running_world(folder: Path) -> AsyncIterator[World]:
    clock = ManualClock(START)
    async with migrated_store(folder) as store, asyncio.TaskGroup() as tasks:
        loops: dict[str, Loop] = {}

        def changed(device: Key) -> None:
            loops["devices"].add(device)

        world = World(
            store=store,
            clock=clock,
            hub=Hub(changed=changed),
            leases=LeaseBook(
                store=store, clock=clock, offline_after=45 * SECOND, every=5 * SECOND
            ),
            ingest=Ingest(store=store, clock=clock),
            director=Director.open(folder / "trust"),
            controllers={},
            loops=loops,
            tasks=tasks,
        )
        world.start()
        leases = tasks.create_task(world.leases.run(changed), name="leases")
        world.running.append(leases)
        try:
            yield world
        finally:
            for task in world.running:
                task.cancel()
