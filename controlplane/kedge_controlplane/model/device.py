# SPDX-License-Identifier: Apache-2.0
"""Device: one enrolled device, what it shall run and what it says it runs."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from kedge_controlplane.model.meta import Condition, KedgeModel, Resource, Time


class SummaryStatus(StrEnum):
    ONLINE = "Online"
    DEGRADED = "Degraded"  # online, and its last update or a workload failed
    ERROR = "Error"  # online, and nothing serves though something should
    OFFLINE = "Offline"
    UNKNOWN = "Unknown"  # never seen


class UpdatedStatus(StrEnum):
    UP_TO_DATE = "UpToDate"
    OUT_OF_DATE = "OutOfDate"
    UPDATING = "Updating"
    UNKNOWN = "Unknown"


class DeviceSpec(KedgeModel):
    """Written by the rollout that owns the device; labels are the operator's."""

    fleet: str = Field(
        "",
        description="Fleet whose rollout moved the device last; "
        "empty once that is deleted.",
    )
    template_version: str = Field("", description="TemplateVersion that it shall run.")


class Summary(KedgeModel):
    status: SummaryStatus = SummaryStatus.UNKNOWN
    info: str = ""


class Updated(KedgeModel):
    status: UpdatedStatus = UpdatedStatus.UNKNOWN
    info: str = ""


class OrderStatus(KedgeModel):
    """The newest order signed for the device."""

    generation: int = 0
    template_version: str = ""
    template_generation: int = Field(
        0, description="The first order with this template; later ones renew it."
    )
    since: Time | None = Field(None, description="When that first order was signed.")
    expires: Time | None = None


class Failure(KedgeModel):
    """While <phase>, <component> failed for <element>: <code>; message for people."""

    phase: str
    component: str
    element: str = ""
    code: str
    message: str


class WorkloadStatus(KedgeModel):
    name: str
    tenant: str
    component: str = Field("", description="name@version")
    model: str = Field("", description="name@version")
    config: str = Field("", description="name@version")
    component_digest: str = ""
    model_digest: str = ""
    config_digest: str = ""
    providers: list[str] = Field(
        default_factory=list, description="Execution providers really used."
    )
    ready: bool = False
    requests: int = 0
    failures: int = 0
    last_swap_micros: int = 0
    prepare_millis: int = 0


class Running(KedgeModel):
    generation: int = 0
    template_version: str = ""
    workloads: list[WorkloadStatus] = Field(default_factory=list)


class SystemInfo(KedgeModel):
    hostname: str = ""
    architecture: str = ""
    operating_system: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    agent_version: str = ""
    runtime_versions: str = ""
    providers: list[str] = Field(
        default_factory=list, description="Execution providers that the device offers."
    )


class Serving(KedgeModel):
    """Where the device serves the Open Inference Protocol."""

    http: str = ""
    grpc: str = ""


class DeviceStatus(KedgeModel):
    summary: Summary = Field(default_factory=Summary)
    updated: Updated = Field(default_factory=Updated)
    system_info: SystemInfo = Field(default_factory=SystemInfo)
    order: OrderStatus = Field(default_factory=OrderStatus)
    running: Running = Field(default_factory=Running)
    serving: Serving = Field(default_factory=Serving)
    result: str = Field("", description="Result code of the last finished update.")
    failure: Failure | None = None
    last_seen: Time | None = None
    report_sequence: int = 0
    conditions: list[Condition] = Field(default_factory=list)


class Device(Resource):
    """One enrolled device of the fleet."""

    kind: Literal["Device"] = "Device"
    spec: DeviceSpec = Field(default_factory=DeviceSpec)
    status: DeviceStatus = Field(default_factory=DeviceStatus)
