# SPDX-License-Identifier: Apache-2.0
"""What the demo's operator does, through the same code as the commands of `kedge`.

The client is synchronous and blocks; each method runs it on a thread, one at a time.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from kedge_controlplane.cli.apply import apply_document
from kedge_controlplane.cli.demo.digits import Digits
from kedge_controlplane.cli.enroll import enrolment_file
from kedge_controlplane.cli.keyring import DEFAULT_NAME, Keyring, SigningKey
from kedge_controlplane.cli.publish import (
    Artifact,
    describe,
    ensure_parent,
    publish,
    sign,
)
from kedge_controlplane.client import Client
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.meta import API_VERSION
from kedge_controlplane.model.registry import BY_KIND
from kedge_controlplane.model.rollout import Rollout
from kedge_controlplane.trust.files import write_private
from kedge_wire.statement import ArtifactKind

FLEET: Final = "digits"
LABELS: Final = {"app": "digits"}
TOKEN_TTL_S: Final = 600

T = TypeVar("T")


class Operator:
    """Publishes, applies and looks; owns the client and the publisher's key."""

    def __init__(self, client: Client, *, keys: Path) -> None:
        self._client: Final = client
        self._keyring: Final = Keyring(keys)
        self._one_at_a_time: Final = asyncio.Lock()

    async def publish_all(self, digits: Digits) -> None:
        """Make a key, register its public half, push component, models and config."""
        await self._on_thread(lambda: self._publish_all(digits))

    async def enrolment(self, path: Path, *, name: str) -> None:
        """Write the file with which one device joins."""

        def write() -> None:
            document = enrolment_file(
                self._client,
                labels={**LABELS, "device": name},
                ttl_seconds=TOKEN_TTL_S,
                publishers=self._keyring.keys(),
            )
            write_private(path, json.dumps(document).encode())

        await self._on_thread(write)

    async def release(self, version: int, *, canary: bool) -> None:
        """Apply the release of a model version, and the fleet that shall run it."""
        documents = [_release(version), _fleet(version, canary=canary)]

        def apply() -> None:
            for document in documents:
                apply_document(self._client, document)

        await self._on_thread(apply)

    async def devices(self) -> dict[str, Device]:
        """The devices by the name that the demo gave them."""
        documents, _ = await self._on_thread(
            lambda: self._client.list(BY_KIND["Device"])
        )
        devices = [Device.model_validate(document) for document in documents]
        return {device.metadata.labels["device"]: device for device in devices}

    async def rollout(self) -> tuple[Fleet, Rollout | None]:
        """The fleet, and the rollout of its newest specification once there is one."""

        def read() -> tuple[Fleet, Rollout | None]:
            fleet = Fleet.model_validate(self._client.get(BY_KIND["Fleet"], FLEET))
            seen = fleet.status.observed_generation == fleet.metadata.generation
            if not seen or not fleet.status.rollout:
                return fleet, None
            document = self._client.get(BY_KIND["Rollout"], fleet.status.rollout)
            return fleet, Rollout.model_validate(document)

        return await self._on_thread(read)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        async with self._one_at_a_time:
            return await asyncio.to_thread(work)

    def _publish_all(self, digits: Digits) -> None:
        key, _ = self._keyring.create(DEFAULT_NAME)
        self._client.create(BY_KIND["PublisherKey"], key.to_object())
        labels = tuple(digits.labels.read_text().split())
        self._push(key, ArtifactKind.COMPONENT, digits.component)
        for version, model in enumerate(digits.models, start=1):
            self._push(
                key,
                ArtifactKind.MODEL,
                model,
                name="digits",
                version=str(version),
                labels=labels,
            )
        self._push(
            key,
            ArtifactKind.CONFIG,
            digits.config,
            name="digits",
            version="1",
            schema=json.loads(digits.schema.read_bytes()),
        )

    def _push(
        self, key: SigningKey, kind: ArtifactKind, path: Path, **members: Any
    ) -> None:
        artifact = Artifact(
            kind=kind, source=str(path), data=path.read_bytes(), **members
        )
        statement = describe(artifact, namespace=self._client.endpoint.namespace)
        publish(
            self._client,
            sign(artifact, statement, key),
            artifact.data,
            key=key,
            progress=_silent,
        )
        ensure_parent(self._client, statement)


@contextmanager
def _silent(_total: int) -> Any:
    yield lambda _sent: None


def _release(version: int) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "Release",
        "metadata": {"name": f"digits-{version}"},
        "spec": {
            "workloads": [
                {
                    "name": "digits",
                    "component": "image-classifier-0.1.0",
                    "model": f"digits-{version}",
                    "config": "digits-1",
                }
            ]
        },
    }


def _fleet(version: int, *, canary: bool) -> dict[str, Any]:
    sequence = [{"name": "canary", "limit": 1, "successThreshold": "100%"}]
    return {
        "apiVersion": API_VERSION,
        "kind": "Fleet",
        "metadata": {"name": FLEET},
        "spec": {
            "selector": {"matchLabels": LABELS},
            "template": {
                "spec": {
                    "release": f"digits-{version}",
                    "inference": {
                        "providers": ["CPUExecutionProvider"],
                        "requireProviders": ["CPUExecutionProvider"],
                    },
                }
            },
            "rolloutPolicy": {
                "deviceSelection": {
                    "strategy": "BatchSequence",
                    "sequence": sequence if canary else [],
                },
                "defaultUpdateTimeout": "2m",
            },
        },
    }
