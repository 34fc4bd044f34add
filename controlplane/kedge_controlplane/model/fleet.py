# SPDX-License-Identifier: Apache-2.0
"""Fleet: which devices shall run which release, and how a change reaches them."""

from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kedge_controlplane.model.meta import (
    Condition,
    KedgeModel,
    ObjectName,
    Resource,
)
from kedge_controlplane.model.quantity import (
    Bytes,
    Duration,
    Limit,
    Share,
    duration_within,
)
from kedge_controlplane.model.selector import LabelSelector

WallTime = Annotated[
    Duration,
    AfterValidator(
        partial(
            duration_within, least=timedelta(milliseconds=1), most=timedelta(hours=1)
        )
    ),
]
UpdateTimeout = Annotated[
    Duration, AfterValidator(partial(duration_within, least=timedelta(seconds=1)))
]


class Inference(KedgeModel):
    """ONNX Runtime's own provider strings."""

    providers: list[str] = Field(
        default_factory=list, max_length=16, description="In order of preference."
    )
    require_providers: list[str] = Field(
        default_factory=list,
        max_length=16,
        description="An update fails where none of these is the one used.",
    )


class Limits(KedgeModel):
    component_memory_limit: Bytes = Field("64Mi", description="Linear memory, each.")
    wall_time: WallTime = Field("10s", description="One request.")
    pool_size: int = Field(1, ge=1, le=64, description="Component instances.")
    warmup_iterations: int = Field(10, ge=0, le=1000, description="Before a swap.")


class TemplateSpec(KedgeModel):
    release: ObjectName
    inference: Inference = Field(default_factory=Inference)
    limits: Limits = Field(default_factory=Limits)


class Template(KedgeModel):
    spec: TemplateSpec


class Batch(KedgeModel):
    """One step of the sequence; the devices left over are an implicit last batch."""

    name: str = Field("", max_length=63)
    selector: LabelSelector = Field(default_factory=LabelSelector)
    limit: Limit = Field(description="Devices of this batch: a number or a share.")
    success_threshold: Share | None = Field(
        None, description="Share that must succeed; the policy's where not given."
    )


class DeviceSelection(KedgeModel):
    strategy: Literal["BatchSequence"] = "BatchSequence"
    sequence: list[Batch] = Field(default_factory=list, max_length=32)


class OnError(StrEnum):
    PAUSE = "Pause"  # keep what is updated, move nobody else


class RolloutPolicy(KedgeModel):
    device_selection: DeviceSelection = Field(default_factory=DeviceSelection)
    success_threshold: Share = "100%"
    default_update_timeout: UpdateTimeout = Field(
        "24h", description="A device that took longer counts as failed."
    )
    on_error: OnError = OnError.PAUSE


class FleetSpec(KedgeModel):
    selector: LabelSelector = Field(description="{} selects every device.")
    template: Template
    rollout_policy: RolloutPolicy = Field(default_factory=RolloutPolicy)


class DeviceCounts(KedgeModel):
    total: int = 0
    up_to_date: int = 0
    updating: int = 0
    out_of_date: int = 0
    failed: int = 0
    offline: int = 0


class FleetStatus(KedgeModel):
    observed_generation: int = 0
    template_version: str = ""
    rollout: str = ""
    devices: DeviceCounts = Field(default_factory=DeviceCounts)
    conditions: list[Condition] = Field(default_factory=list)


class Fleet(Resource):
    """A set of devices that run the same release."""

    kind: Literal["Fleet"] = "Fleet"
    spec: FleetSpec
    status: FleetStatus = Field(default_factory=FleetStatus)
