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

Only `prepare` takes long; an interrupted one changes nothing. Changes wait for one
another, never for a request: what is reaped goes to the reaper, which waits for its
requests. `status` waits for nothing.
"""

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from kedge_agent.errors import NotFoundError
from kedge_agent.runtime.loader import Loader
from kedge_agent.runtime.reaper import Reaper
from kedge_agent.runtime.triple import Triple
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
        """The last swap of its triple: the time in which the loop served nobody."""
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
        return self.triple.ready

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
        self._reaper: Final = Reaper()
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
            LocalError: This device cannot load it now; likewise.
        """
        async with self._changing:
            held = (self._prepared, self._serving)
            if any(g is not None and g.number == number for g in held):
                return 0
            started = time.perf_counter()
            self._reap_prepared()
            triples: dict[str, Triple] = {}
            try:
                for workload in workloads:
                    triples[workload.name] = await self._triple(workload, cas)
            except BaseException:
                self._reap(Generation(number=number, triples=triples))
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
                    self._reap(stale)
            return self.status()

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
                self._reap(abandoned)
            return self.status()

    async def discard(self, number: int) -> None:
        """Free a prepared generation that is not wanted, or the previous one."""
        async with self._changing:
            if self._prepared is not None and self._prepared.number == number:
                self._reap_prepared()
            if self._previous is not None and self._previous.number == number:
                gone, self._previous = self._previous, None
                self._reap(gone)

    def status(self) -> list[WorkloadStatus]:
        """What serves now; `ready` as the component itself said last."""
        return [
            one.triple.status(swap_micros=one.swap_micros)
            for one in self._served.values()
        ]

    async def close(self) -> None:
        """Reap everything, and wait until it is done; for a graceful end."""
        async with self._changing:
            held = [self._prepared, self._serving, self._previous]
            self._prepared = self._serving = self._previous = None
            self._served = {}
            self._reaper.reap({t for g in held if g for t in g.triples.values()})
            await self._reaper.done()

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
        started = time.perf_counter_ns()
        triples = generation.triples if generation else {}
        swapped = []
        for name, triple in triples.items():
            served = self._served.get(name)
            if served is None:
                self._served[name] = ServedWorkload(triple)
            elif served.triple is not triple:
                served.triple = triple
                swapped.append(served)
        for name in self._served.keys() - triples.keys():
            del self._served[name]
        micros = math.ceil((time.perf_counter_ns() - started) / 1000)
        for served in swapped:
            served.swap_micros = micros

    async def _triple(self, workload: Workload, cas: Path) -> Triple:
        for generation in (self._serving, self._previous):
            held = generation.triples.get(workload.name) if generation else None
            if held is not None and held.workload == workload:
                return held
        return await self._loader.load(workload, cas)

    def _reap_prepared(self) -> None:
        gone, self._prepared = self._prepared, None
        if gone is not None:
            self._reap(gone)

    def _reap(self, gone: Generation) -> None:
        kept = {
            triple
            for generation in (self._prepared, self._serving, self._previous)
            if generation is not None
            for triple in generation.triples.values()
        }
        self._reaper.reap(set(gone.triples.values()) - kept)
