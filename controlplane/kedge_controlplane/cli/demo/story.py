# SPDX-License-Identifier: Apache-2.0
"""The demo's story, from an empty folder to a fleet that moved to a better model.

Every wait has an end and watches the processes: when one dies, the story ends with what
it printed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar

from kedge_controlplane.cli.demo.digits import Digits
from kedge_controlplane.cli.demo.operator import Operator
from kedge_controlplane.cli.demo.processes import Processes
from kedge_controlplane.cli.demo.traffic import DeviceClient, Tally
from kedge_controlplane.cli.kubeconfig import read_endpoint
from kedge_controlplane.client import Client
from kedge_controlplane.errors import ProcessError
from kedge_controlplane.model.device import Device, UpdatedStatus
from kedge_controlplane.model.rollout import RolloutPhase

POLL_S: Final = 0.2
PHASE_TIMEOUT_S: Final = 180.0
SETTLE_S: Final = 1.0  # of requests before the change, and after it

T = TypeVar("T")


class Stage(Protocol):
    """One step's progress: how many of its devices are there."""

    def reached(self, count: int) -> None: ...


class Narrator(Protocol):
    """Shows the story as it goes."""

    def stage(self, text: str, total: int) -> Stage: ...


@dataclass(slots=True, kw_only=True)
class DeviceResult:
    """What one device did."""

    name: str
    device: str = ""
    url: str = ""
    provider: str = ""
    model_before: str = ""  # digests
    model_after: str = ""
    accuracy_before: float = 0.0
    accuracy_after: float = 0.0
    swap_ms: float = 0.0
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    devices: list[DeviceResult]
    digits: Digits
    seconds: float
    canary: str  # name of the device that moved first


async def tell(
    folder: Path,
    *,
    devices: int,
    digits: Digits,
    processes: Processes,
    narrator: Narrator,
) -> Outcome:
    """Run the whole story in `folder`.

    Raises:
        ProcessError: A process died, or a step took longer than it may.
        ControlPlaneError: The control plane refused something.
    """
    started = time.monotonic()
    results = [DeviceResult(name=f"device-{n}") for n in range(1, devices + 1)]
    with await _control_plane(folder, processes, narrator) as client:
        operator = Operator(client, keys=folder / "keys")
        with _stage(narrator, "Sign and push component, models, config", 1) as stage:
            await operator.publish_all(digits)
            stage.reached(1)
        fleet = FleetOnThisMachine(folder, results, operator, processes, narrator)
        await fleet.enrol()
        await operator.release(1, canary=False)
        await fleet.converge("Roll out digits-1", model=digits.references[0].digest)
        clients = [DeviceClient(result.url, digits) for result in results]
        try:
            await _classify(results, clients, narrator, after=False)
            canary = await _change_under_load(fleet, operator, digits, clients)
            await _classify(results, clients, narrator, after=True)
        finally:
            for device_client in clients:
                await device_client.close()
    for result, device_client in zip(results, clients, strict=True):
        result.tally = device_client.tally
    return Outcome(
        devices=results,
        digits=digits,
        seconds=time.monotonic() - started,
        canary=canary,
    )


class FleetOnThisMachine:
    """The agents, and waiting for what the control plane says about them."""

    def __init__(
        self,
        folder: Path,
        results: list[DeviceResult],
        operator: Operator,
        processes: Processes,
        narrator: Narrator,
    ) -> None:
        self._folder = folder
        self._results = results
        self._operator = operator
        self._processes = processes
        self.narrator = narrator

    async def enrol(self) -> None:
        """Start every agent with a one-time token and wait until it is online."""
        with _stage(self.narrator, "Enrol devices", len(self._results)) as stage:
            for result in self._results:
                enrolment = self._folder / f"{result.name}.json"
                await self._operator.enrolment(enrolment, name=result.name)
                await self._processes.start(
                    result.name,
                    *("kedge_agent", "run"),
                    *("--state-dir", str(self._folder / result.name)),
                    *("--enrollment", str(enrolment)),
                    *("--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0"),
                )
            await self._until(
                stage, lambda device: device.status.summary.status == "Online"
            )

    async def converge(self, text: str, *, model: str) -> str:
        """Wait until all devices are UpToDate with a model; answers who was first."""
        first = ""

        def done(device: Device) -> bool:
            nonlocal first
            fits = device.status.updated.status is UpdatedStatus.UP_TO_DATE and [
                w.model_digest for w in device.status.running.workloads
            ] == [model]
            if fits and not first:
                first = device.metadata.labels["device"]
            return fits

        with _stage(self.narrator, text, len(self._results)) as stage:
            await self._until(stage, done)
        await self._until_completed()
        await self._remember()
        return first

    async def _until(self, stage: Stage, done: Callable[[Device], bool]) -> None:
        async def count() -> bool:
            found = await self._operator.devices()
            ready = sum(done(device) for device in found.values())
            stage.reached(ready)
            return ready == len(self._results)

        await self._poll(count)

    async def _until_completed(self) -> None:
        async def completed() -> bool:
            _, rollout = await self._operator.rollout()
            if rollout is not None and rollout.status.phase is RolloutPhase.PAUSED:
                raise ProcessError(f"rollout: {rollout.status.message}")
            return (
                rollout is not None and rollout.status.phase is RolloutPhase.COMPLETED
            )

        await self._poll(completed)

    async def _poll(self, done: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + PHASE_TIMEOUT_S
        while not await done():
            self._processes.check()
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"expected this step within {PHASE_TIMEOUT_S:g} s; "
                    f"the logs are in {self._folder}"
                )
            await asyncio.sleep(POLL_S)

    async def _remember(self) -> None:
        devices = await self._operator.devices()
        for result in self._results:
            device = devices[result.name]
            (workload,) = device.status.running.workloads
            result.device = device.name
            result.url = device.status.serving.http
            result.provider = ",".join(workload.providers)
            result.swap_ms = workload.last_swap_micros / 1000
            if not result.model_before:
                result.model_before = workload.model_digest
            result.model_after = workload.model_digest


async def _control_plane(
    folder: Path, processes: Processes, narrator: Narrator
) -> Client:
    data = folder / "server"
    with _stage(narrator, "Start the control plane", 1) as stage:
        await processes.start(
            "server",
            *("kedge_controlplane", "server", "--data", str(data)),
            *("--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0"),
        )
        await processes.until_written("server", data / "server.json")
        stage.reached(1)
    return Client(read_endpoint(data / "kubeconfig", namespace=None))


async def _classify(
    results: list[DeviceResult],
    clients: list[DeviceClient],
    narrator: Narrator,
    *,
    after: bool,
) -> None:
    text = "Classify every held-out image on every device"
    with _stage(narrator, text, len(clients)) as stage:
        done = 0

        async def one(result: DeviceResult, client: DeviceClient) -> None:
            nonlocal done
            accuracy = await client.classify_all()
            if after:
                result.accuracy_after = accuracy
            else:
                result.accuracy_before = accuracy
            done += 1
            stage.reached(done)

        async with asyncio.TaskGroup() as group:
            for result, client in zip(results, clients, strict=True):
                group.create_task(one(result, client), name=f"ask-{result.name}")


async def _change_under_load(
    fleet: FleetOnThisMachine,
    operator: Operator,
    digits: Digits,
    clients: list[DeviceClient],
) -> str:
    """Move the fleet to the second model while every client keeps asking."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(client.keep_asking(stop), name=f"client-{number}")
        try:
            await asyncio.sleep(SETTLE_S)
            await operator.release(2, canary=True)
            first = await fleet.converge(
                "Roll out digits-2, one device first", model=digits.references[1].digest
            )
            await asyncio.sleep(SETTLE_S)
        finally:
            stop.set()
    return first


@contextmanager
def _stage(narrator: Narrator, text: str, total: int) -> Iterator[Stage]:
    yield narrator.stage(text, total)
