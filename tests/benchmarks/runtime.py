# SPDX-License-Identifier: Apache-2.0
"""A real runtime process with the digits example, as benchmarks drive it."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import onnxruntime

from kedge_wire.statement import ArtifactKind, Statement
from kedge_wire.v1.order_pb2 import (
    Artifact,
    Envelope,
    InferencePolicy,
    Limits,
    Workload,
)
from kedge_wire.v1.runtime_pb2_grpc import RuntimeControlStub

REPOSITORY = Path(__file__).parents[2]
DIGITS = REPOSITORY / "docs/examples/digits"
CLASSIFIER = REPOSITORY / "wit/components/image-classifier/image-classifier.wasm"
MODEL_NAME = "digits"

_KINDS = {
    ArtifactKind.COMPONENT: Artifact.Kind.KIND_COMPONENT,
    ArtifactKind.MODEL: Artifact.Kind.KIND_MODEL,
    ArtifactKind.CONFIG: Artifact.Kind.KIND_CONFIG,
}


@dataclass(frozen=True)
class Digits:
    """The example: two models, held-out images, and what bare ONNX Runtime answers."""

    models: tuple[bytes, bytes]
    component: bytes
    config: bytes
    images: np.ndarray  # uint8 [n, 64]
    labels: np.ndarray  # int64 [n]

    @classmethod
    def load(cls) -> "Digits":
        heldout = np.load(DIGITS / "heldout.npz")
        return cls(
            models=(
                (DIGITS / "digits-v1.onnx").read_bytes(),
                (DIGITS / "digits-v2.onnx").read_bytes(),
            ),
            component=CLASSIFIER.read_bytes(),
            config=(DIGITS / "config.json").read_bytes(),
            images=heldout["images"],
            labels=heldout["labels"],
        )

    def expected(self) -> dict[str, list[int]]:
        """Top class of every image, by model digest, from bare ONNX Runtime."""
        answers = {}
        pixels = (self.images.astype(np.float32) / 16).reshape(-1, 1, 8, 8)
        for model in self.models:
            session = onnxruntime.InferenceSession(
                model, providers=["CPUExecutionProvider"]
            )
            (logits,) = session.run(None, {"image": pixels})
            answers[hashlib.sha256(model).hexdigest()] = logits.argmax(axis=1).tolist()
        return answers


class Runtime:
    def __init__(self, directory: Path, port: int, control: RuntimeControlStub) -> None:
        self.port, self.control = port, control
        self.cas = directory / "cas"

    def workload(
        self, *, component: bytes, model: bytes, config: bytes, pool_size: int = 1
    ) -> Workload:
        return Workload(
            name=MODEL_NAME,
            tenant="default",
            component=self._store(ArtifactKind.COMPONENT, component),
            model=self._store(ArtifactKind.MODEL, model),
            config=self._store(ArtifactKind.CONFIG, config),
            inference=InferencePolicy(providers=["CPUExecutionProvider"]),
            limits=Limits(pool_size=pool_size),
        )

    def _store(self, kind: ArtifactKind, content: bytes) -> Artifact:
        digest = hashlib.sha256(content).hexdigest()
        (self.cas / digest).write_bytes(content)
        statement = Statement(
            kind=kind,
            namespace="default",
            name=MODEL_NAME,
            version=digest[:8],
            sha256=digest,
            length=len(content),
            labels=tuple("0123456789") if kind is ArtifactKind.MODEL else (),
        )
        return Artifact(
            kind=_KINDS[kind],
            name=statement.name,
            version=statement.version,
            sha256=digest,
            length=len(content),
            statement=Envelope(payload=statement.to_bytes()),
        )


@contextmanager
def running_runtime() -> Iterator[Runtime]:
    """Start `kedge_agent.runtime` on a free port; end it by its id."""
    with tempfile.TemporaryDirectory(prefix="kedge-bench-") as folder:
        directory = Path(folder)
        (directory / "cas").mkdir()
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listener.set_inheritable(True)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "kedge_agent.runtime"),
                *("--socket", str(directory / "control.sock")),
                *("--grpc-socket", str(directory / "oip.sock")),
                *("--http-fd", str(listener.fileno())),
                *("--parent", str(os.getpid())),
            ],
            pass_fds=[listener.fileno()],
            env={**os.environ, "KEDGE_LOG_LEVEL": "WARNING"},
        )
        try:
            channel = grpc.insecure_channel(f"unix:{directory / 'control.sock'}")
            grpc.channel_ready_future(channel).result(timeout=30)
            yield Runtime(
                directory, listener.getsockname()[1], RuntimeControlStub(channel)
            )
            channel.close()
        finally:
            process.terminate()
            process.wait(timeout=30)
            listener.close()


class LoadProcess:
    """The load generator in a process of its own, so that it shares no lock."""

    def __init__(self, plan: dict[str, object]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.flush()

    def finish(self) -> "LoadResult":
        """Ask it to stop if it has not, and wait for its result."""
        out, _ = self._process.communicate(timeout=120)
        return LoadResult(**json.loads(out))

    def wait(self) -> "LoadResult":
        """Wait until the plan's seconds are over."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._process.wait(timeout=30)
        return LoadResult(**json.loads(line))


@dataclass(frozen=True)
class LoadResult:
    requests: int
    failed: int
    wrong: int
    due: list[float]
    latency: list[float]
    first_errors: list[str]
    seconds: float


def milliseconds(latencies: np.ndarray, quantile: float) -> float:
    return round(float(np.quantile(latencies, quantile)) * 1000, 3)


def now() -> float:
    return time.monotonic()
