# SPDX-License-Identifier: Apache-2.0
"""A control plane and agents as processes on this machine, for tests.

Everything is started on free ports in one temporary folder and ended by process id.
Waiting is polling with an end: the processes are real, and so is their time.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from kedge_controlplane.cli.apply import apply_document
from kedge_controlplane.cli.demo.digits import Digits
from kedge_controlplane.cli.enroll import enrolment_file
from kedge_controlplane.cli.keyring import Keyring, SigningKey
from kedge_controlplane.cli.kubeconfig import read_endpoint
from kedge_controlplane.cli.publish import (
    Artifact,
    describe,
    ensure_parent,
    publish,
    sign,
)
from kedge_controlplane.client import Client
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.registry import BY_KIND
from kedge_controlplane.model.rollout import Rollout
from kedge_wire.statement import ArtifactKind
from tests.e2e.manifests import fleet, release

TIMEOUT_S = 60.0
POLL_S = 0.1


class Agent:
    """One device's agent."""

    def __init__(self, plane: "ControlPlane", name: str) -> None:
        self.plane, self.name = plane, name
        self.state = plane.folder / name
        self.enrolment = plane.folder / f"{name}.json"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = plane.folder / f"{name}.log"

    def start(self, *options: str, environment: dict[str, str] | None = None) -> Self:
        serving = self.state / "serving.json"
        serving.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "kedge_agent", "run"),
                    *("--state-dir", str(self.state)),
                    *("--enrollment", str(self.enrolment)),
                    *("--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0"),
                    *options,
                    *("--die-with-parent", str(os.getpid())),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        return self

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=30)

    def serving(self) -> dict[str, Any]:
        """Addresses and process id, as the agent wrote them."""
        path = self.state / "serving.json"
        until(path.exists, f"{self.name} writes {path}", log=self.log)
        document: dict[str, Any] = json.loads(path.read_bytes())
        return document

    def device(self) -> Device:
        """The control plane's object of this device."""
        for device in self.plane.devices():
            if device.metadata.labels["device"] == self.name:
                return device
        raise LookupError(self.name)

    def classify(self, image: bytes) -> dict[str, Any]:
        """One inference over HTTP."""
        tensor = {
            "name": "raw",
            "datatype": "UINT8",
            "shape": [len(image)],
            "data": list(image),
        }
        response = httpx.post(
            f"{self.serving()['http']}/v2/models/digits/infer",
            json={"inputs": [tensor]},
            timeout=20,
        )
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def model_digest(self) -> str:
        """Digest of the model that answers now."""
        image = self.plane.digits.images[0]
        digest: str = self.classify(image)["parameters"]["kedge_model_digest"]
        return digest


class ControlPlane:
    """A `kedge server`, an operator with a publisher's key, and its agents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "server"
        self.log = folder / "server.log"
        self.digits = Digits.load()
        self.keyring = Keyring(folder / "keys")
        self.agents: list[Agent] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._ports: tuple[str, str] = ("127.0.0.1:0", "127.0.0.1:0")
        self._client: Client | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for agent in self.agents:
            if agent.process is not None and agent.process.poll() is None:
                agent.kill(signal.SIGTERM)
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGTERM)
        self._close_client()

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    def start(self) -> None:
        """Start the server, on the ports that it had before if it had any."""
        (self.data / "server.json").unlink(missing_ok=True)
        listen, gateway = self._ports
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "kedge_controlplane", "server"),
                    *("--data", str(self.data)),
                    *("--listen", listen, "--gateway", gateway),
                    *("--die-with-parent", str(os.getpid())),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        path = self.data / "server.json"
        until(path.exists, "the server writes server.json", log=self.log)
        info = json.loads(path.read_bytes())
        self._ports = (info["api"].removeprefix("https://"), info["gateway"])
        self._close_client()
        self._client = Client(read_endpoint(self.data / "kubeconfig", namespace=None))

    def stop(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=30)

    # ------------------------------------------------------------ operator
    def publish_digits(self) -> None:
        """Push the example under a registered key: two models, component, config."""
        key, _ = self.keyring.create("publisher")
        self.register(key)
        digits = self.digits
        self.push(key, ArtifactKind.COMPONENT, digits.component.read_bytes())
        for version, model in enumerate(digits.models, start=1):
            self.push(
                key,
                ArtifactKind.MODEL,
                model.read_bytes(),
                name="digits",
                version=str(version),
                labels=tuple("0123456789"),
            )
        for version, config in enumerate((digits.config.read_bytes(), b""), start=1):
            content = config or _other_config(digits.config.read_bytes())
            self.push(
                key,
                ArtifactKind.CONFIG,
                content,
                name="digits",
                version=str(version),
            )

    def register(self, key: SigningKey) -> None:
        self.client.create(BY_KIND["PublisherKey"], key.to_object())

    def push(
        self, key: SigningKey, kind: ArtifactKind, data: bytes, **members: Any
    ) -> str:
        """Publish one artifact as `kedge push` does; answers its digest."""
        artifact = Artifact(kind=kind, source=str(kind), data=data, **members)
        statement = describe(artifact, namespace="default")
        publish(
            self.client, sign(artifact, statement, key), data, key=key, progress=_silent
        )
        ensure_parent(self.client, statement)
        return statement.sha256

    def enrol(self, name: str) -> Agent:
        """Make an enrolment file for a device, and start its agent."""
        agent = Agent(self, name)
        document = enrolment_file(
            self.client,
            labels={"app": "digits", "device": name},
            ttl_seconds=600,
            publishers=self.keyring.keys(),
        )
        agent.enrolment.write_text(json.dumps(document))
        self.agents.append(agent)
        return agent.start()

    def roll_out(
        self,
        model: int,
        *,
        config: int = 1,
        component: str = "image-classifier-0.1.0",
        canary: bool = True,
    ) -> None:
        """Apply a release and the fleet that shall run it."""
        document = release(model=model, config=config, component=component)
        apply_document(self.client, document)
        apply_document(self.client, fleet(document["metadata"]["name"], canary=canary))

    # ------------------------------------------------------------ looking
    def devices(self) -> list[Device]:
        documents, _ = self.client.list(BY_KIND["Device"])
        return [Device.model_validate(document) for document in documents]

    def rollout(self) -> Rollout | None:
        """The rollout of the fleet's newest specification, once there is one."""
        found = self.client.get(BY_KIND["Fleet"], "digits")
        status = found.get("status", {})
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return None
        if not status.get("rollout"):
            return None
        document = self.client.get(BY_KIND["Rollout"], status["rollout"])
        return Rollout.model_validate(document)

    def until_phase(self, phase: str) -> Rollout:
        """Wait until the rollout is in a phase."""

        def reached() -> bool:
            rollout = self.rollout()
            return rollout is not None and rollout.status.phase == phase

        until(reached, f"the rollout is {phase}", log=self.log)
        found = self.rollout()
        assert found is not None
        return found

    def until_up_to_date(self) -> None:
        """Wait until every agent's device runs what its fleet says."""

        def reached() -> bool:
            statuses = [device.status.updated.status for device in self.devices()]
            return len(statuses) == len(self.agents) and set(statuses) == {"UpToDate"}

        until(reached, "every device is UpToDate", log=self.log)

    def blob(self, digest: str) -> Path:
        """The file in which the server keeps a blob."""
        (path,) = [p for p in self.data.rglob(f"*{digest}*") if p.is_file()]
        return path


@contextmanager
def running(folder: Path, *, devices: int) -> Iterator[ControlPlane]:
    """A fleet that runs the first model, all devices UpToDate."""
    with ControlPlane(folder) as plane:
        plane.publish_digits()
        for number in range(1, devices + 1):
            plane.enrol(f"device-{number}")
        plane.roll_out(1, canary=False)
        plane.until_up_to_date()
        yield plane


def until(condition: Callable[[], bool], what: str, *, log: Path) -> None:
    """Wait for a condition; fail with the end of a log."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            tail = log.read_text(errors="replace").splitlines()[-30:]
            lines = "\n".join(tail)
            raise AssertionError(f"expected within {TIMEOUT_S:g} s: {what}\n{lines}")
        time.sleep(POLL_S)


def _other_config(config: bytes) -> bytes:
    return json.dumps({**json.loads(config), "topK": 2}).encode()


@contextmanager
def _silent(_total: int) -> Iterator[Callable[[int], object]]:
    yield lambda _sent: None
