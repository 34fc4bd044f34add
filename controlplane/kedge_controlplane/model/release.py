# SPDX-License-Identifier: Apache-2.0
"""Release: an immutable pinned triple {component, model, config}, or several."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kedge_controlplane.model.meta import KedgeModel, ObjectName, Resource


class ReleaseWorkload(KedgeModel):
    """One triple, served under `name`."""

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="Model name on the device's Open Inference Protocol endpoint.",
    )
    component: ObjectName = Field(description="A ComponentVersion.")
    model: ObjectName = Field(description="A ModelVersion.")
    config: ObjectName = Field(description="A ConfigSet.")


class ReleaseSpec(KedgeModel):
    workloads: list[ReleaseWorkload] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [workload.name for workload in self.workloads]
        if len(set(names)) != len(names):
            raise ValueError("workload names must be unique")
        return self


class Release(Resource):
    """What a fleet runs, pinned."""

    kind: Literal["Release"] = "Release"
    spec: ReleaseSpec
