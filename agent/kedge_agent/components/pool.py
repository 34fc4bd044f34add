# SPDX-License-Identifier: Apache-2.0
"""The instances of one workload, and the queue before them.

    [new] --start--> [serving] --close--> [draining] --last answer--> [closed]

An instance lives on a thread of its own, which makes it, calls it and closes it;
threads take requests from one queue. The pool itself belongs to the event loop that
started it. A request's time runs from the moment it is admitted, so a full queue sheds
the oldest instead of serving everyone late. An instance that broke is replaced by its
thread after the failed request was answered; the others never notice. Cancelling a
caller leaves a running request running and a waiting one unrun.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Final, TypeVar

import numpy as np

from kedge_agent.components.engine import CompiledComponent
from kedge_agent.components.instance import Instance, InstanceLimits, NamedArray
from kedge_agent.components.worker import Job, Worker
from kedge_agent.errors import (
    ComponentError,
    GuestError,
    OverloadedError,
    RequestError,
    TrapError,
)
from kedge_agent.host.log import GuestLog
from kedge_agent.inference.base import LoadedModel
from kedge_wire.world import ComponentMetadata

MAX_WAITING: Final = 64
"""Requests before the instances; more are refused at once."""

START_S: Final = 30.0
"""For instantiating and configuring: interpreters take seconds."""

HEALTH_S: Final = 5.0
"""How long a question about health waits for an instance, and how long it may run."""

OVERTIME_S: Final = 5.0
"""How long a caller waits past its deadline for a model, which cannot be stopped."""

T = TypeVar("T")
Call = Callable[[Instance, float], T]


class InstancePool:
    """Serves requests with `size` instances of one component."""

    def __init__(
        self,
        compiled: CompiledComponent,
        *,
        models: Mapping[str, LoadedModel],
        config: str,
        log: GuestLog,
        size: int = 1,
        memory_bytes: int = InstanceLimits().memory_bytes,
        wall_time_s: float = 10.0,
        waiting: int = MAX_WAITING,
    ) -> None:
        self._compiled: Final = compiled
        self._models: Final = dict(models)
        self._config: Final = config
        self._log: Final = log
        self._limits: Final = InstanceLimits(memory_bytes=memory_bytes)
        self._wall_time_s: Final = wall_time_s
        self._capacity: Final = size + waiting
        self._jobs: Final[SimpleQueue[Job | None]] = SimpleQueue()
        self._workers: Final = [
            Worker(self._make, self._jobs, name=f"component-{number}")
            for number in range(size)
        ]
        self._metadata: ComponentMetadata | None = None
        self._serving = False
        self._admitted = 0
        self._idle: Final = asyncio.Event()
        self._idle.set()

    @property
    def metadata(self) -> ComponentMetadata:
        """What the component says about itself; known once the pool has started."""
        if self._metadata is None:
            raise RuntimeError("metadata: expected a pool that has started")
        return self._metadata

    async def start(self) -> None:
        """Instantiate and configure every instance.

        Raises:
            ComponentError: The component cannot be instantiated, or traps.
            ConfigError: It refuses its configuration.
        """
        try:
            for worker in self._workers:
                await worker.start()
        except BaseException:
            await self.close()
            raise
        self._serving = True

    async def infer(
        self, raw: np.ndarray, params: Mapping[str, str]
    ) -> list[NamedArray]:
        """Answer one request.

        Raises:
            RequestError: One of its kinds; `OverloadedError` where too many wait.
        """

        def call(instance: Instance, deadline: float) -> list[NamedArray]:
            return instance.infer(raw, params, deadline=deadline)

        return await self._submit(call, time_s=self._wall_time_s)

    async def health(self) -> None:
        """Return if an instance says that it can serve. Waits behind requests.

        Raises:
            OverloadedError: Every instance is busy: nothing is known.
            GuestError: It says that it cannot, or did not answer in its time.
            TrapError: It trapped.
        """

        def ask(instance: Instance, deadline: float) -> None:
            if time.monotonic() >= deadline:
                raise OverloadedError("health: every instance is busy")
            try:
                # Its own time begins now: waiting is not the component's fault.
                instance.health(deadline=time.monotonic() + HEALTH_S)
            except TrapError:
                raise
            except RequestError as exc:
                raise GuestError(f"health: {exc}") from exc

        await self._submit(ask, time_s=HEALTH_S)

    async def close(self) -> None:
        """Refuse new requests, answer those admitted, free the instances."""
        self._serving = False
        await self._idle.wait()
        for _ in self._workers:
            self._jobs.put(None)
        for worker in self._workers:
            await worker.ended()
        self._log.close()

    async def _submit(self, call: Call[T], *, time_s: float) -> T:
        if not self._serving:
            raise OverloadedError("component: expected a serving pool, found it closed")
        if self._admitted >= self._capacity:
            raise OverloadedError(
                f"component: expected at most {self._capacity} requests at a time"
            )
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        deadline = time.monotonic() + time_s
        self._admitted += 1
        self._idle.clear()
        self._jobs.put(
            Job(
                call=lambda instance: call(instance, deadline),
                answer=answer,
                settled=self._settled,
                loop=loop,
            )
        )
        try:
            async with asyncio.timeout(time_s + OVERTIME_S):
                return await answer
        except TimeoutError as exc:
            raise OverloadedError("time: the model is still running") from exc

    def _settled(self) -> None:
        self._admitted -= 1
        if not self._admitted:
            self._idle.set()

    def _make(self) -> Instance:
        """Make a configured instance; runs on the thread that will own it."""
        deadline = time.monotonic() + START_S
        instance = Instance(
            self._compiled,
            models=self._models,
            limits=self._limits,
            log=self._log,
            deadline=deadline,
        )
        try:
            instance.configure(self._config, deadline=deadline)
            # Only now: configuration decides sizes and names.
            self._metadata = instance.metadata(deadline=deadline)
        except BaseException as exc:
            instance.close()
            if isinstance(exc, RequestError):
                raise ComponentError(f"component: cannot be started: {exc}") from exc
            raise
        return instance
