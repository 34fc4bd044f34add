# SPDX-License-Identifier: Apache-2.0
"""An order as the rest of the agent sees it: verified, frozen, free of wire types.

Only the verifier makes one. Its bytes are on disk as `gen/<n>.bin`, so an order that is
read again after a restart went through the verifier again.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from kedge_wire.statement import ArtifactKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What no later order may fall below."""

    generation: int = 0
    digest: str = ""  # SHA-256 of the payload of that generation's order
    clock: datetime | None = None  # newest time that a director signed


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedArtifact:
    """Bytes that a trusted publisher vouches for."""

    kind: ArtifactKind
    name: str
    version: str
    sha256: str
    length: int  # bytes
    statement: bytes  # the publisher's serialised envelope, for the runtime

    def __str__(self) -> str:
        return f"{self.kind} {self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadLimits:
    """Zero means the runtime's default."""

    component_memory_bytes: int
    wall_time_ms: int
    pool_size: int
    warmup_iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedWorkload:
    """One served triple."""

    name: str
    tenant: str
    component: VerifiedArtifact
    model: VerifiedArtifact
    config: VerifiedArtifact
    providers: tuple[str, ...]
    require_providers: tuple[str, ...]
    limits: WorkloadLimits

    @property
    def artifacts(self) -> tuple[VerifiedArtifact, ...]:
        return (self.component, self.model, self.config)


@dataclass(frozen=True, kw_only=True)
class VerifiedOrder:
    """The whole desired state of this device."""

    generation: int
    issued: datetime
    expires: datetime
    template_version: str  # empty: run nothing
    workloads: tuple[VerifiedWorkload, ...]
    digest: str  # SHA-256 of the signed payload
    envelope: bytes  # serialised, as received

    @cached_property
    def workloads_digest(self) -> str:
        """Equal for two orders that make the device run the same."""
        return _digest([_workload(workload) for workload in self.workloads])

    @cached_property
    def content_digest(self) -> str:
        """Equal for two orders of which the second brings nothing new to try.

        A new template version is a person's decision to try again; a refreshed expiry
        is not.
        """
        return _digest([self.template_version, self.workloads_digest])

    @property
    def lengths(self) -> dict[str, int]:
        """Every artifact that the order needs: digest to length."""
        return {
            artifact.sha256: artifact.length
            for workload in self.workloads
            for artifact in workload.artifacts
        }


def _workload(workload: VerifiedWorkload) -> list[object]:
    limits = workload.limits
    return [
        workload.name,
        workload.tenant,
        [[a.sha256, a.name, a.version] for a in workload.artifacts],
        # Labels in a statement reach the component, and the statement is signed.
        [hashlib.sha256(a.statement).hexdigest() for a in workload.artifacts],
        workload.providers,
        workload.require_providers,
        [
            limits.component_memory_bytes,
            limits.wall_time_ms,
            limits.pool_size,
            limits.warmup_iterations,
        ],
    ]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
