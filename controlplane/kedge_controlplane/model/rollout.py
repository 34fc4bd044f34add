# SPDX-License-Identifier: Apache-2.0
"""Rollout: the progress of one TemplateVersion over one Fleet."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from kedge_controlplane.model.fleet import RolloutPolicy
from kedge_controlplane.model.meta import (
    Condition,
    KedgeModel,
    ObjectName,
    Resource,
    Time,
)


class RolloutPhase(StrEnum):
    PENDING = "Pending"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"  # halted by a batch that cannot meet its threshold
    COMPLETED = "Completed"
    ABORTED = "Aborted"  # superseded by a newer Rollout, or its fleet is gone


class BatchPhase(StrEnum):
    PENDING = "Pending"
    PROGRESSING = "Progressing"
    COMPLETED = "Completed"
    FAILED = "Failed"


class RolloutSpec(KedgeModel):
    """Immutable; the policy as it was when the rollout began."""

    fleet: ObjectName
    template_version: ObjectName
    policy: RolloutPolicy = Field(default_factory=RolloutPolicy)


class BatchStatus(KedgeModel):
    name: str
    phase: BatchPhase = BatchPhase.PENDING
    devices: list[str] = Field(
        default_factory=list, description="Frozen when the batch starts."
    )
    succeeded: int = 0
    failed: int = 0
    started: Time | None = None
    finished: Time | None = None


class RolloutStatus(KedgeModel):
    phase: RolloutPhase = RolloutPhase.PENDING
    message: str = ""
    current_batch: int = 0
    batches: list[BatchStatus] = Field(default_factory=list)
    started: Time | None = None
    finished: Time | None = None
    conditions: list[Condition] = Field(default_factory=list)


class Rollout(Resource):
    """Written by the fleet's controller, decided by the rollout engine."""

    kind: Literal["Rollout"] = "Rollout"
    spec: RolloutSpec
    status: RolloutStatus = Field(default_factory=RolloutStatus)
