# SPDX-License-Identifier: Apache-2.0
"""Which generation serves: prepared, serving, previous.

    prepare(n)  -> [prepared n]
    activate(n) -> [serving n]   the one that served becomes [previous], still loaded
    revert(n)   -> the previous serves again, n is reaped
    discard(n)  -> n is reaped, prepared or previous

On the event loop only. A swap is one assignment per workload between two instructions
of the loop, so a request sees the old triple or the new one, never a mixture. A
workload that two generations share keeps its triple: it is reaped with the last of
them.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from kedge_agent.errors import NotFoundError
from kedge_agent.runtime.triple import Loader, Triple
from kedge_agent.serving.catalogue import Inference, Served
from kedge_wire.statement import TensorSpec
from kedge_wire.v1.order_pb2 import Workload
from kedge_wire.v1.report_pb2 import WorkloadStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    number: int
    triples: Mapping[str, Triple]


class ServedWorkload:
    """What the protocols see of a workload: whichever triple serves at this instant."""

    def __init__(self, triple: Triple) -> None:
        self.triple = triple
        self.swap_micros = 0
        self.platform: Final = "kedge_component"

    @property
    def name(self) -> str:
        return self.triple.workload.name

    @property
    def version(self) -> str:
        return self.triple.workload.model.version

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.triple.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.triple.outputs

    @property
    def ready(self) -> bool:
        return True

    async def infer(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        parameters: Mapping[str, str],
        timeout_s: float,
    ) -> Inference:
        del timeout_s  # the service keeps it
        return await self.triple.infer(inputs, parameters)


class Generations:
    """The state machine above, and the catalogue that the protocols serve from."""

    def __init__(self, loader: Loader) -> None:
        self._loader: Final = loader
        self._prepared: Generation | None = None
        self._serving: Generation | None = None
        self._previous: Generation | None = None
        self._served: dict[str, ServedWorkload] = {}
        self._changing: Final = asyncio.Lock()
        self.activated: Final = asyncio.Event()

    @property
    def serving_number(self) -> int:
        return self._serving.number if self._serving else 0

    async def prepare(
        self, number: int, workloads: Sequence[Workload], *, cas: Path
    ) -> int:
        """Load a generation beside what runs; nothing that serves changes.

        Returns:
            Milliseconds that it took; 0 where it was prepared already.

        Raises:
            PeerDataError: One of its kinds. Then nothing of it stays loaded.
        """
        async with self._changing:
            held = (self._prepared, self._serving)
            if any(g is not None and g.number == number for g in held):
                return 0
            started = time.perf_counter()
            await self._reap_prepared()
            triples: dict[str, Triple] = {}
            try:
                for workload in workloads:
                    triples[workload.name] = await self._triple(workload, cas)
            except BaseException:
                await self._reap(Generation(number=number, triples=triples))
                raise
            self._prepared = Generation(number=number, triples=triples)
            return round((time.perf_counter() - started) * 1000)

    async def activate(self, number: int) -> list[WorkloadStatus]:
        """Let a prepared generation serve, and keep the one before for a revert.

        Raises:
            NotFoundError: It is not prepared.
        """
        async with self._changing:
            if self.serving_number != number:
                prepared = self._prepared
                if prepared is None or prepared.number != number:
                    raise NotFoundError(
                        f"generation {number}: expected it prepared, found "
                        f"{prepared.number if prepared else 'none'}",
                        element=str(number),
                    )
                stale, self._previous = self._previous, self._serving
                self._prepared, self._serving = None, prepared
                self._assign(prepared)
                self.activated.set()
                logger.info("generation.activated: generation=%d", number)
                if stale is not None:
                    await self._reap(stale)
        return await self.status()

    async def revert(self, number: int) -> list[WorkloadStatus]:
        """Let the generation before `number` serve again; `number` is reaped."""
        async with self._changing:
            if self._serving is not None and self._serving.number == number:
                abandoned, self._serving = self._serving, self._previous
                self._previous = None
                self._assign(self._serving)
                logger.warning(
                    "generation.reverted: generation=%d serving=%d",
                    number,
                    self.serving_number,
                )
                await self._reap(abandoned)
        return await self.status()

    async def discard(self, number: int) -> None:
        """Free a prepared generation that is not wanted, or the previous one."""
        async with self._changing:
            if self._prepared is not None and self._prepared.number == number:
                await self._reap_prepared()
            if self._previous is not None and self._previous.number == number:
                gone, self._previous = self._previous, None
                await self._reap(gone)

    async def status(self) -> list[WorkloadStatus]:
        """What serves now; `ready` as the component itself says."""
        served = list(self._served.values())
        ready = await asyncio.gather(*(one.triple.healthy() for one in served))
        return [
            one.triple.status(ready=fine, swap_micros=one.swap_micros)
            for one, fine in zip(served, ready, strict=True)
        ]

    async def close(self) -> None:
        """Reap everything; for a graceful end."""
        async with self._changing:
            held = [self._prepared, self._serving, self._previous]
            self._prepared = self._serving = self._previous = None
            self._served = {}
            for triple in {t for g in held if g for t in g.triples.values()}:
                await triple.close()

    def names(self) -> list[str]:
        return sorted(self._served)

    def get(self, name: str, version: str = "") -> Served:
        served = self._served.get(name)
        if served is None:
            raise NotFoundError(f"model {name}: not found", element=name)
        if version and version != served.version:
            raise NotFoundError(
                f"model {name}: expected version {served.version}, found {version}",
                element=name,
            )
        return served

    def _assign(self, generation: Generation | None) -> None:
        """Swap. No await between its lines: the loop cannot run a request inside."""
        triples = generation.triples if generation else {}
        for name, triple in triples.items():
            served = self._served.get(name)
            if served is None:
                self._served[name] = ServedWorkload(triple)
                continue
            started = time.perf_counter_ns()
            served.triple = triple
            served.swap_micros = max(1, (time.perf_counter_ns() - started) // 1000)
        for name in self._served.keys() - triples.keys():
            del self._served[name]

    async def _triple(self, workload: Workload, cas: Path) -> Triple:
        for generation in (self._serving, self._previous):
            held = generation.triples.get(workload.name) if generation else None
            if held is not None and held.workload == workload:
                return held
        return await self._loader.load(workload, cas)

    async def _reap_prepared(self) -> None:
        gone, self._prepared = self._prepared, None
        if gone is not None:
            await self._reap(gone)

    async def _reap(self, gone: Generation) -> None:
        kept = {
            triple
            for generation in (self._prepared, self._serving, self._previous)
            if generation is not None
            for triple in generation.triples.values()
        }
        for triple in set(gone.triples.values()) - kept:
            await triple.close()
