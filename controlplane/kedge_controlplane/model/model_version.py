# SPDX-License-Identifier: Apache-2.0
"""Model and ModelVersion: an ONNX model and its immutable versions."""

from typing import Literal

from pydantic import Field

from kedge_controlplane.model.artifact import ArtifactRef, DsseEnvelope, Tensor
from kedge_controlplane.model.meta import KedgeModel, ObjectName, Resource


class ModelSpec(KedgeModel):
    description: str = Field("", max_length=4096)


class Model(Resource):
    """A model; its versions are ModelVersions."""

    kind: Literal["Model"] = "Model"
    spec: ModelSpec = Field(default_factory=ModelSpec)


class ModelVersionSpec(KedgeModel):
    """Immutable. Signature and labels repeat what the publisher's statement says."""

    model: ObjectName
    version: str
    artifact: ArtifactRef
    statement: DsseEnvelope
    inputs: list[Tensor]
    outputs: list[Tensor]
    labels: list[str] = Field(
        default_factory=list, description="Class names; reach the component as config."
    )


class ModelVersion(Resource):
    """One immutable version of a model, named <model>-<version>."""

    kind: Literal["ModelVersion"] = "ModelVersion"
    spec: ModelVersionSpec
