# SPDX-License-Identifier: Apache-2.0
"""ConfigSet: one immutable version of a configuration, with the schema it satisfies."""

from typing import Any, Literal

from pydantic import Field

from kedge_controlplane.model.artifact import ArtifactRef, DsseEnvelope
from kedge_controlplane.model.meta import KedgeModel, ObjectName, Resource


class ConfigSetSpec(KedgeModel):
    """Immutable. `values` are exactly the signed artifact's JSON object."""

    config: ObjectName
    version: str
    artifact: ArtifactRef
    statement: DsseEnvelope
    values: dict[str, Any]
    json_schema: dict[str, Any] = Field(
        default_factory=dict, alias="schema", description="JSON Schema, draft 2020-12."
    )


class ConfigSet(Resource):
    """One immutable version of a configuration, named <config>-<version>."""

    kind: Literal["ConfigSet"] = "ConfigSet"
    spec: ConfigSetSpec
