# SPDX-License-Identifier: Apache-2.0
"""A loader on real parts, and workloads whose files lie in a store."""

import asyncio
import hashlib
import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from kedge_agent.components.engine import ComponentEngine
from kedge_agent.errors import GuestError
from kedge_agent.inference.base import CPU, Backend, LoadedModel
from kedge_agent.inference.onnx import OnnxBackend
from kedge_agent.runtime.generations import Generations
from kedge_agent.runtime.loader import Loader
from kedge_wire.onnx_model import ModelSignature
from kedge_wire.statement import ArtifactKind, Statement
from kedge_wire.v1.order_pb2 import Artifact, Envelope, Limits, Workload
from tests.simulators import onnx_models
from tests.unit.agent.components.guests import PASS_ON, guest

FITS_AFFINE = r"""
    (data (i32.const 100) "\58\02\00\00\01\00\00\00\58\02\00\00\01\00\00\00")
    (data (i32.const 600) "\00\00\00\00\00\00\00\00\0a\00\00\00")
    (data (i32.const 612) "\70\02\00\00\02\00\00\00")
    (data (i32.const 624)
      "\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff")"""
"""Metadata of a component that wants one FP32 [?,?] of its model, in and out."""


def component(*, more: str = "", **bodies: str) -> bytes:
    """Make a guest whose metadata fits `onnx_models.affine()`."""
    return guest(more=FITS_AFFINE + more, **bodies)


ASKS_ITS_MODEL: Final = guest(
    forward=f"""
    (call $load (i32.const 264) (i32.const 7) (i32.const 1024))
    (if (i32.load8_u (i32.const 1024)) (then {PASS_ON} (return)))
    (call $infer (i32.load (i32.const 1028)) (local.get 0) (local.get 1)
      (i32.const 2048))
    (i32.const 2048)"""
)
"""A component whose `forward` runs the model without inputs."""


@dataclass(frozen=True, slots=True)
class Cas:
    """A content store in a folder, and workloads of what is in it."""

    folder: Path
    versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def workload(
        self,
        *,
        name: str = "digits",
        wasm: bytes | None = None,
        model: bytes | None = None,
        config: Any = "{}",
        labels: tuple[str, ...] = (),
        limits: Limits | None = None,
    ) -> Workload:
        text = config if isinstance(config, str) else json.dumps(config)
        return Workload(
            name=name,
            tenant="acme",
            component=self._put("component", wasm or component()),
            model=self._put("model", model or onnx_models.affine(), labels),
            config=self._put("config", text.encode()),
            limits=limits or Limits(warmup_iterations=1),
        )

    def path(self, artifact: Artifact) -> Path:
        return self.folder / artifact.sha256

    def _put(self, kind: str, data: bytes, labels: tuple[str, ...] = ()) -> Artifact:
        digest, version = hashlib.sha256(data).hexdigest(), str(next(self.versions))
        (self.folder / digest).write_bytes(data)
        statement = Statement(
            kind=ArtifactKind(kind),
            namespace="acme",
            name=kind,
            version=version,
            sha256=digest,
            length=len(data),
            labels=labels,
        )
        return Artifact(
            name=kind,
            version=version,
            sha256=digest,
            length=len(data),
            statement=Envelope(payload=statement.to_bytes()),
        )


@pytest.fixture
def cas(tmp_path: Path) -> Cas:
    return Cas(tmp_path)


@pytest.fixture(scope="session")
def engine() -> Iterator[ComponentEngine]:
    engine = ComponentEngine()
    yield engine
    engine.close()


@pytest.fixture
def loader(engine: ComponentEngine) -> Iterator[Loader]:
    loader = Loader(engine=engine, backend=OnnxBackend())
    yield loader
    loader.close()


class GatedModel(LoadedModel):
    """A run enters, and leaves when the gate is open."""

    def __init__(self, gate: "GatedBackend") -> None:
        super().__init__(inputs=(), outputs=(), providers=(CPU,))
        self._gate = gate

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        del inputs
        self._gate.runs += 1
        self._gate.entered.set()
        if not self._gate.opened.wait(30):
            raise GuestError("the gate stayed shut")
        return {}

    def _close(self) -> None:
        self._gate.closed += 1


class GatedBackend(Backend):
    """Models without inputs and outputs, whose runs a test holds. Open at first."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.opened.set()
        self.runs = self.closed = 0
        self.error: Exception | None = None
        """What loading raises."""

    def available_providers(self) -> tuple[str, ...]:
        return (CPU,)

    def hold(self) -> None:
        self.entered.clear()
        self.opened.clear()

    async def held(self) -> None:
        """Wait until a run is inside."""
        assert await asyncio.to_thread(self.entered.wait, 30)

    def _load(
        self, model: bytes, signature: ModelSignature, providers: tuple[str, ...]
    ) -> LoadedModel:
        del model, signature, providers
        if self.error is not None:
            raise self.error
        return GatedModel(self)


@pytest.fixture
def gate() -> Iterator[GatedBackend]:
    gate = GatedBackend()
    yield gate
    gate.opened.set()


@pytest.fixture
def gated(engine: ComponentEngine, gate: GatedBackend) -> Iterator[Loader]:
    loader = Loader(engine=engine, backend=gate)
    yield loader
    gate.opened.set()
    loader.close()


@pytest.fixture
async def generations(gated: Loader, gate: GatedBackend) -> AsyncIterator[Generations]:
    generations = Generations(gated)
    yield generations
    gate.opened.set()
    await generations.close()


def instance_threads() -> list[str]:
    """Threads of pools that are alive."""
    names = (thread.name for thread in threading.enumerate())
    return [n for n in names if n.startswith("component-") and n != "component-clock"]
