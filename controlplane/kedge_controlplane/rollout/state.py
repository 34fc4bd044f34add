# SPDX-License-Identifier: Apache-2.0
"""What the rollout engine sees, and what it answers with.

Frozen values only. A Snapshot is everything that a decision depends on besides the
time, so a decision can be replayed from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction

from kedge_controlplane.model.rollout import BatchPhase, RolloutPhase
from kedge_controlplane.model.selector import LabelSelector


class Outcome(StrEnum):
    """What became of one device's update to the rollout's template."""

    PENDING = "Pending"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """One device that the fleet owns.

    `assigned` says whether the device was told to run the rollout's template, `since`
    when. A device that was told but whose order is not signed yet has no `since`; its
    batch's start counts.
    """

    name: str
    labels: Mapping[str, str]
    assigned: bool = False
    since: datetime | None = None
    outcome: Outcome = Outcome.PENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One batch as planned; without a limit it takes every device that is left."""

    name: str
    selector: LabelSelector
    limit: int | str | None
    threshold: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """One batch as it is; `devices` is fixed once it started, but for the last one."""

    phase: BatchPhase = BatchPhase.PENDING
    devices: tuple[str, ...] = ()
    started: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A rollout, its batches and the fleet's devices at one moment.

    `steps` and `batches` have the same length, at least one; the last step has no
    limit. Nobody listened to devices before `listening_since`, the process's start.
    """

    phase: RolloutPhase
    obsolete: str  # why nobody wants this rollout any more; empty: it is wanted
    update_timeout: timedelta
    listening_since: datetime
    steps: tuple[Step, ...]
    batches: tuple[BatchState, ...]
    devices: Mapping[str, DeviceState]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartBatch:
    """Fix the batch's devices. Their AssignTemplate follows in the same decision.

    A batch whose devices have all left the fleet starts over with others.
    """

    index: int
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinBatch:
    """Add devices that appeared after the last batch had started."""

    index: int
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignTemplate:
    """Tell one device to run the rollout's template."""

    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishBatch:
    """The batch met its threshold and none of its devices is still moving."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """All batches are finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Halt: the batch cannot meet its threshold any more. Nobody else moves."""

    index: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Go on with the batch that paused the rollout: it can meet its threshold again."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """Stop: the fleet wants something else by now."""

    reason: str


Action = (
    StartBatch
    | JoinBatch
    | AssignTemplate
    | FinishBatch
    | Complete
    | Pause
    | Resume
    | Abort
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How a batch stands. Devices that left the fleet count nowhere."""

    total: int
    succeeded: int
    failed: int

    @property
    def moving(self) -> int:
        return self.total - self.succeeded - self.failed
