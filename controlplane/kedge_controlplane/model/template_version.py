# SPDX-License-Identifier: Apache-2.0
"""TemplateVersion: a fleet's template, frozen, every reference a digest."""

from typing import Literal

from pydantic import Field

from kedge_controlplane.model.artifact import ArtifactRef, DsseEnvelope
from kedge_controlplane.model.fleet import Inference, Limits
from kedge_controlplane.model.meta import KedgeModel, ObjectName, Resource


class ResolvedArtifact(KedgeModel):
    name: str
    version: str
    artifact: ArtifactRef
    statement: DsseEnvelope


class ResolvedWorkload(KedgeModel):
    name: str
    tenant: str
    component: ResolvedArtifact
    model: ResolvedArtifact
    config: ResolvedArtifact


class TemplateVersionSpec(KedgeModel):
    fleet: ObjectName
    release: ObjectName
    workloads: list[ResolvedWorkload] = Field(min_length=1)
    inference: Inference = Field(default_factory=Inference)
    limits: Limits = Field(default_factory=Limits)


class TemplateVersion(Resource):
    """All that an order needs; written by the fleet's controller."""

    kind: Literal["TemplateVersion"] = "TemplateVersion"
    spec: TemplateVersionSpec
