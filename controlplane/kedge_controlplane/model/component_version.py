# SPDX-License-Identifier: Apache-2.0
"""A WebAssembly component and its immutable versions."""

from typing import Literal

from pydantic import Field

from kedge_controlplane.model.artifact import ArtifactRef, DsseEnvelope, Tensor
from kedge_controlplane.model.meta import KedgeModel, ObjectName, Resource


class ComponentSpec(KedgeModel):
    description: str = Field("", max_length=4096)


class Component(Resource):
    """A component; its versions are ComponentVersions."""

    kind: Literal["Component"] = "Component"
    spec: ComponentSpec = Field(default_factory=ComponentSpec)


class ComponentVersionSpec(KedgeModel):
    """Immutable. What it asks of its model repeats the publisher's statement."""

    component: ObjectName
    version: str
    artifact: ArtifactRef
    statement: DsseEnvelope
    world: Literal["kedge:ai/model@0.1.0"] = "kedge:ai/model@0.1.0"
    model_inputs: list[Tensor]
    model_outputs: list[Tensor]


class ComponentVersion(Resource):
    """One immutable version of a component, named <component>-<version>."""

    kind: Literal["ComponentVersion"] = "ComponentVersion"
    spec: ComponentVersionSpec
