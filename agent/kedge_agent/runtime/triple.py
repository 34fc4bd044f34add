# SPDX-License-Identifier: Apache-2.0
"""One loaded triple {component, model, config}: admit, drain, reap.

        load_triple
            |
        [admitting] --drain()--> [draining] --last request leaves--> close() -> [reaped]
            ^                        |
            +-------- readmit() -----+      (a revert)

A triple is made on a thread and used on the event loop. Loading touches nothing that
serves. The bytes that were hashed are the bytes that are loaded: each file is read
once.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from kedge_agent.components.engine import ComponentEngine
from kedge_agent.components.pool import InstancePool
from kedge_agent.errors import (
    ConfigError,
    CorruptArtifactError,
    ModelError,
    PeerDataError,
    RequestError,
)
from kedge_agent.host.log import GuestLog
from kedge_agent.inference.base import Backend, LoadedModel
from kedge_agent.inference.datatypes import DTYPES
from kedge_agent.serving.catalogue import Inference
from kedge_wire.statement import Statement, StatementError, TensorSpec, mismatch
from kedge_wire.v1.order_pb2 import Artifact, Workload
from kedge_wire.v1.report_pb2 import WorkloadStatus

logger = logging.getLogger(__name__)

GRANTED_MODEL: Final = "default"
"""The name under which a component opens its workload's own model."""

DEFAULT_MEMORY_BYTES: Final = 64 * 1024 * 1024
DEFAULT_WALL_TIME_MS: Final = 10_000
DEFAULT_WARMUP_ITERATIONS: Final = 10
MAX_CONFIG_BYTES: Final = 64 * 1024

LOADER_NICE: Final = 10
"""Compiling takes every core it gets; requests come first."""

T = TypeVar("T")


class Loader:
    """Loads triples on one thread of its own, at a lower priority than serving."""

    def __init__(self, *, engine: ComponentEngine, backend: Backend) -> None:
        self._engine: Final = engine
        self._backend: Final = backend
        self._thread: Final = ThreadPoolExecutor(
            1, thread_name_prefix="loader", initializer=_yield_to_serving
        )

    async def load(self, workload: Workload, cas: Path) -> "Triple":
        """Load, check, configure and warm up a triple beside what runs.

        Raises:
            PeerDataError: One of its kinds, `element` naming the workload and artifact.
        """
        started = time.perf_counter()
        model, pool = await self._aside(self._load_parts, workload, cas)
        try:
            await pool.start()
            await self._aside(_warm_up, model, workload)
        except BaseException:
            await pool.close()
            model.close()
            raise
        millis = round((time.perf_counter() - started) * 1000)
        return Triple(workload=workload, model=model, pool=pool, prepare_millis=millis)

    def close(self) -> None:
        """Let the thread go; nothing is loading."""
        self._thread.shutdown()

    async def _aside(self, work: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, *arguments)

    def _load_parts(
        self, workload: Workload, cas: Path
    ) -> tuple[LoadedModel, InstancePool]:
        component = _read(cas, workload.component)
        model_bytes = _read(cas, workload.model)
        config = _configuration(_read(cas, workload.config), workload)
        with _about(workload, workload.component):
            compiled = self._engine.compile(component)
        with _about(workload, workload.model):
            model = self._backend.load(
                model_bytes,
                providers=tuple(workload.inference.providers),
                require_providers=tuple(workload.inference.require_providers),
            )
        limits = workload.limits
        pool = InstancePool(
            compiled,
            models={GRANTED_MODEL: model},
            config=config,
            size=limits.pool_size or 1,
            memory_bytes=limits.component_memory_bytes or DEFAULT_MEMORY_BYTES,
            wall_time_s=(limits.wall_time_ms or DEFAULT_WALL_TIME_MS) / 1000,
            log=GuestLog(tenant=workload.tenant, workload=workload.name),
        )
        return model, pool


class Triple:
    """Serves requests from one component pool and one model; on the event loop only."""

    def __init__(
        self,
        *,
        workload: Workload,
        model: LoadedModel,
        pool: InstancePool,
        prepare_millis: int,
    ) -> None:
        problem = mismatch(
            pool.metadata.model_inputs, model.inputs, side="inputs"
        ) or mismatch(pool.metadata.model_outputs, model.outputs, side="outputs")
        if problem is not None:
            raise ModelError(
                f"model {_version(workload.model)} does not fit component "
                f"{_version(workload.component)}: {problem}",
                element=f"{workload.name}/model",
            )
        self.workload: Final = workload
        self.inputs: Final[tuple[TensorSpec, ...]] = (pool.metadata.accepts,)
        self.outputs: Final[tuple[TensorSpec, ...]] = pool.metadata.returns
        self._model: Final = model
        self._pool: Final = pool
        self._prepare_millis: Final = prepare_millis
        self._parameters: Final = {
            "kedge_component": _version(workload.component),
            "kedge_component_digest": workload.component.sha256,
            "kedge_model": _version(workload.model),
            "kedge_model_digest": workload.model.sha256,
            "kedge_config": _version(workload.config),
            "kedge_config_digest": workload.config.sha256,
            "kedge_provider": model.providers[0],
        }
        self._in_flight = 0
        self._idle: Final = asyncio.Event()
        self._idle.set()
        self.requests = 0
        self.failures = 0

    async def infer(
        self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, str]
    ) -> Inference:
        """Run preprocess, forward and postprocess on one raw input.

        Args:
            inputs: The raw input, checked against `inputs` of this triple.
            parameters: The caller's, for the component.

        Raises:
            RequestError: One of its kinds.
        """
        (raw,) = inputs.values()
        with self._admitted():
            outputs = await self._pool.infer(raw, parameters)
        return Inference(outputs=outputs, parameters=self._parameters)

    async def healthy(self) -> bool:
        """Ask the component whether it can serve."""
        try:
            await self._pool.health()
        except RequestError as exc:
            logger.warning("workload.unhealthy: %s: %s", self.workload.name, exc)
            return False
        return True

    async def drained(self) -> None:
        """Wait until no request is inside."""
        await self._idle.wait()

    async def close(self) -> None:
        """Reap: wait for the requests inside, then free instances and model."""
        await self.drained()
        await self._pool.close()
        self._model.close()

    def status(self, *, ready: bool, swap_micros: int) -> WorkloadStatus:
        workload = self.workload
        return WorkloadStatus(
            name=workload.name,
            tenant=workload.tenant,
            component_sha256=workload.component.sha256,
            model_sha256=workload.model.sha256,
            config_sha256=workload.config.sha256,
            component_version=_version(workload.component),
            model_version=_version(workload.model),
            config_version=_version(workload.config),
            providers=self._model.providers,
            ready=ready,
            requests=self.requests,
            failures=self.failures,
            last_swap_micros=swap_micros,
            prepare_millis=self._prepare_millis,
        )

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        self._in_flight += 1
        self._idle.clear()
        self.requests += 1
        try:
            yield
        except BaseException:
            self.failures += 1
            raise
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()


def _yield_to_serving() -> None:
    """Linux gives each thread a priority; Wasmtime's compiler threads inherit it."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADER_NICE)


def _read(cas: Path, artifact: Artifact) -> bytes:
    """Read once; what is hashed here is what gets loaded."""
    path = cas / artifact.sha256
    try:
        content = path.read_bytes()
    except FileNotFoundError as exc:
        raise CorruptArtifactError(
            f"artifact {_version(artifact)}: not in the store", element=artifact.sha256
        ) from exc
    found = hashlib.sha256(content).hexdigest()
    if found != artifact.sha256 or len(content) != artifact.length:
        raise CorruptArtifactError(
            f"artifact {_version(artifact)}: expected {artifact.length} bytes of "
            f"sha256 {artifact.sha256}, found {len(content)} of {found}",
            element=artifact.sha256,
        )
    return content


def _configuration(content: bytes, workload: Workload) -> str:
    """Configuration of the component: the signed object, and the model's labels."""
    if len(content) > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"config: expected at most {MAX_CONFIG_BYTES} bytes, found {len(content)}",
            element=f"{workload.name}/config",
        )
    try:
        values = json.loads(content)
        labels = Statement.from_bytes(workload.model.statement.payload).labels
    except (ValueError, RecursionError, StatementError) as exc:
        raise ConfigError(
            f"config: expected JSON ({exc})", element=f"{workload.name}/config"
        ) from exc
    if not isinstance(values, dict):
        raise ConfigError(
            "config: expected a JSON object", element=f"{workload.name}/config"
        )
    if labels:
        values.setdefault("labels", list(labels))
    return json.dumps(values, ensure_ascii=False)


def _warm_up(model: LoadedModel, workload: Workload) -> None:
    """Let the runtime allocate and pick its kernels before a request waits for it."""
    iterations = workload.limits.warmup_iterations or DEFAULT_WARMUP_ITERATIONS
    zeros = {
        spec.name: np.zeros([max(d, 1) for d in spec.shape], DTYPES[spec.datatype])
        for spec in model.inputs
        if spec.datatype != "BYTES"
    }
    if len(zeros) == len(model.inputs):
        for _ in range(iterations):
            model.run(zeros)


@contextlib.contextmanager
def _about(workload: Workload, artifact: Artifact) -> Iterator[None]:
    """Name the workload and artifact in an error that does not yet."""
    try:
        yield
    except PeerDataError as exc:
        exc.element = exc.element or f"{workload.name}/{_version(artifact)}"
        raise


def _version(artifact: Artifact) -> str:
    return f"{artifact.name}@{artifact.version}"
