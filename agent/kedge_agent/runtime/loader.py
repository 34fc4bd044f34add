# SPDX-License-Identifier: Apache-2.0
"""From verified files to a triple that can serve.

    read and hash -> compile -> load the model -> start instances -> warm up -> health

Blocking steps run on one thread of the loader's, beside what serves and at a lower
priority. The bytes that were hashed are the bytes that are loaded: each file is read
once. Whoever fails or is cancelled leaves nothing behind: the thread ends at its next
step, and instances and model are freed.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from kedge_agent.components.engine import ComponentEngine
from kedge_agent.components.pool import InstancePool
from kedge_agent.errors import (
    ConfigError,
    CorruptArtifactError,
    LocalError,
    PeerDataError,
    RequestError,
    UnreadableError,
)
from kedge_agent.host.log import GuestLog, one_line
from kedge_agent.inference.base import Backend, LoadedModel
from kedge_agent.inference.datatypes import DTYPES
from kedge_agent.runtime.triple import Triple, label
from kedge_wire.statement import MAX_CONFIG_BYTES, Statement, StatementError
from kedge_wire.v1.order_pb2 import Artifact, Workload

logger = logging.getLogger(__name__)

GRANTED_MODEL: Final = "default"
"""The name under which a component opens its workload's own model."""

DEFAULT_MEMORY_BYTES: Final = 64 * 1024 * 1024
DEFAULT_WALL_TIME_MS: Final = 10_000
DEFAULT_WARMUP_ITERATIONS: Final = 10

WARMUP_S: Final = 10.0
"""A slow model warms up less often: others wait for the thread."""

MAX_WARMUP_BYTES: Final = 256 * 1024 * 1024
"""Of inputs made up for warming up: a request can bring no more."""

LOADER_NICE: Final = 10
"""Compiling takes every core it gets; requests come first."""

T = TypeVar("T")


class Loader:
    """Loads triples, one step of one triple at a time."""

    def __init__(
        self,
        *,
        engine: ComponentEngine,
        backend: Backend,
        warmup_s: float = WARMUP_S,
    ) -> None:
        self._engine: Final = engine
        self._backend: Final = backend
        self._warmup_s: Final = warmup_s
        self._thread: Final = ThreadPoolExecutor(
            1, thread_name_prefix="loader", initializer=_yield_to_serving
        )

    async def load(self, workload: Workload, cas: Path) -> Triple:
        """Load, check, configure and warm up a triple beside what runs.

        Raises:
            PeerDataError: One of its kinds, `element` naming the workload and artifact.
            UnreadableError: A file cannot be read now.
        """
        started = time.perf_counter()
        given_up = threading.Event()
        try:
            model, pool = await self._aside(self._load_parts, workload, cas, given_up)
            try:
                with _about(workload, workload.component), _about_config(workload):
                    await pool.start()
                triple = Triple(workload=workload, model=model, pool=pool)
                await self._aside(self._warm_up, model, workload, given_up)
                millis = round((time.perf_counter() - started) * 1000)
                await triple.begin(prepare_millis=millis)
            except BaseException:
                given_up.set()
                await pool.close()
                model.close()
                raise
        finally:
            given_up.set()
        return triple

    def close(self) -> None:
        """Let the thread go; nothing is loading."""
        self._thread.shutdown()

    async def _aside(self, work: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, *arguments)

    def _load_parts(
        self, workload: Workload, cas: Path, given_up: threading.Event
    ) -> tuple[LoadedModel, InstancePool]:
        component = _read(cas, workload.component)
        model_bytes = _read(cas, workload.model)
        config = _configuration(_read(cas, workload.config), workload)
        _go_on(given_up)
        with _about(workload, workload.component):
            compiled = self._engine.compile(component)
        _go_on(given_up)
        with _about(workload, workload.model):
            model = self._backend.load(
                model_bytes,
                providers=tuple(workload.inference.providers),
                require_providers=tuple(workload.inference.require_providers),
            )
        try:
            _go_on(given_up)
        except LocalError:
            model.close()
            raise
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

    def _warm_up(
        self, model: LoadedModel, workload: Workload, given_up: threading.Event
    ) -> None:
        """Let the runtime allocate and pick its kernels before a request waits for it.

        What it runs on is made up: a model that refuses it may serve all the same.
        """
        wanted = workload.limits.warmup_iterations or DEFAULT_WARMUP_ITERATIONS
        deadline = time.monotonic() + self._warmup_s
        done = 0
        try:
            zeros = _zeros(model)
            while zeros is not None and done < wanted and not given_up.is_set():
                if time.monotonic() >= deadline:
                    logger.warning(
                        "warm_up.cut: %s: %d of %d runs", workload.name, done, wanted
                    )
                    break
                model.run(zeros)
                done += 1
        except (RequestError, ValueError, MemoryError) as exc:
            logger.warning("warm_up.failed: %s: %s", workload.name, one_line(str(exc)))


def _yield_to_serving() -> None:
    """Linux gives each thread a priority; Wasmtime's compiler threads inherit it."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADER_NICE)


def _go_on(given_up: threading.Event) -> None:
    if given_up.is_set():
        raise LocalError("load: its caller has given up")  # and does not hear this


def _read(cas: Path, artifact: Artifact) -> bytes:
    """Read once; what is hashed here is what gets loaded."""
    path = cas / artifact.sha256
    try:
        content = path.read_bytes()
    except FileNotFoundError as exc:
        raise CorruptArtifactError(
            f"artifact {label(artifact)}: not in the store", element=artifact.sha256
        ) from exc
    except OSError as exc:
        raise UnreadableError(
            f"artifact {label(artifact)}: cannot be read: {exc.strerror}",
            element=artifact.sha256,
        ) from exc
    found = hashlib.sha256(content).hexdigest()
    if found != artifact.sha256 or len(content) != artifact.length:
        raise CorruptArtifactError(
            f"artifact {label(artifact)}: expected {artifact.length} bytes of "
            f"sha256 {artifact.sha256}, found {len(content)} of {found}",
            element=artifact.sha256,
        )
    return content


def _configuration(content: bytes, workload: Workload) -> str:
    """Configuration of the component: the signed object, and the model's labels."""
    with _about_config(workload):
        if len(content) > MAX_CONFIG_BYTES:
            raise ConfigError(
                f"config: expected at most {MAX_CONFIG_BYTES} bytes, "
                f"found {len(content)}"
            )
        try:
            values = json.loads(content)
            labels = Statement.from_bytes(workload.model.statement.payload).labels
            if not isinstance(values, dict):
                raise ConfigError("config: expected a JSON object")
            if labels:
                values.setdefault("labels", list(labels))
            # NaN and infinities are Python's, not JSON's: no component reads them.
            return json.dumps(values, ensure_ascii=False, allow_nan=False)
        except (ValueError, RecursionError, StatementError) as exc:
            raise ConfigError(f"config: expected JSON ({exc})") from exc


def _zeros(model: LoadedModel) -> dict[str, np.ndarray] | None:
    """Inputs to warm up with; None where they would be of no use or too large."""
    sizes = {spec.name: [max(d, 1) for d in spec.shape] for spec in model.inputs}
    if any(spec.datatype == "BYTES" for spec in model.inputs):
        return None
    total = sum(
        math.prod(sizes[spec.name]) * DTYPES[spec.datatype].itemsize
        for spec in model.inputs
    )
    if total > MAX_WARMUP_BYTES:
        logger.warning("warm_up.left_out: inputs of %d bytes", total)
        return None
    return {
        spec.name: np.zeros(sizes[spec.name], DTYPES[spec.datatype])
        for spec in model.inputs
    }


@contextlib.contextmanager
def _about(workload: Workload, artifact: Artifact) -> Iterator[None]:
    """Name the workload and artifact in an error that does not yet."""
    try:
        yield
    except PeerDataError as exc:
        exc.element = exc.element or f"{workload.name}/{label(artifact)}"
        raise


@contextlib.contextmanager
def _about_config(workload: Workload) -> Iterator[None]:
    try:
        yield
    except ConfigError as exc:
        exc.element = exc.element or f"{workload.name}/config"
        raise
