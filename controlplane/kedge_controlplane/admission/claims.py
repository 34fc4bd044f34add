# SPDX-License-Identifier: Apache-2.0
"""What a version says in its fields, as the statement that its publisher must sign.

What a version means (digest, tensors, labels) comes from the publisher; an operator, or
this server, can only repeat it. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from kedge_controlplane.admission.causes import invalid
from kedge_controlplane.errors import Cause
from kedge_controlplane.model.artifact import Tensor
from kedge_controlplane.model.component_version import ComponentVersion
from kedge_controlplane.model.configset import ConfigSet
from kedge_controlplane.model.model_version import ModelVersion
from kedge_wire.statement import ArtifactKind, Statement, TensorSpec

Version = ComponentVersion | ModelVersion | ConfigSet

_COMMON: Final = {
    "namespace": "metadata.namespace",
    "version": "spec.version",
    "sha256": "spec.artifact.sha256",
    "length": "spec.artifact.length",
}
_PATHS: Final[Mapping[ArtifactKind, Mapping[str, str]]] = {
    ArtifactKind.COMPONENT: {
        **_COMMON,
        "name": "spec.component",
        "inputs": "spec.modelInputs",
        "outputs": "spec.modelOutputs",
    },
    ArtifactKind.MODEL: {
        **_COMMON,
        "name": "spec.model",
        "inputs": "spec.inputs",
        "outputs": "spec.outputs",
        "labels": "spec.labels",
    },
    ArtifactKind.CONFIG: {**_COMMON, "name": "spec.config"},
}
"""Where the object repeats each member of its statement."""


def claim(version: Version) -> Statement:
    """The statement that `version` needs."""
    match version:
        case ComponentVersion(spec=component):
            kind, name = ArtifactKind.COMPONENT, component.component
            inputs, outputs = component.model_inputs, component.model_outputs
            labels: list[str] = []
        case ModelVersion(spec=model):
            kind, name = ArtifactKind.MODEL, model.model
            inputs, outputs, labels = model.inputs, model.outputs, model.labels
        case ConfigSet(spec=config):
            kind, name = ArtifactKind.CONFIG, config.config
            inputs, outputs, labels = [], [], []
    return Statement(
        kind=kind,
        namespace=version.namespace,
        name=name,
        version=version.spec.version,
        sha256=version.spec.artifact.sha256,
        length=version.spec.artifact.length,
        inputs=to_specs(inputs),
        outputs=to_specs(outputs),
        labels=tuple(labels),
    )


def path_of(member: str, kind: ArtifactKind) -> str:
    """The object's field that repeats a statement's member."""
    return _PATHS[kind].get(member, "spec.statement")


def object_name(statement: Statement) -> str:
    return f"{statement.name}-{statement.version}"


def differences(claimed: Statement, signed: Statement) -> list[Cause]:
    """Every field of the object that is not what the publisher signed."""
    return [
        invalid(
            path_of(field.name, claimed.kind),
            f"expected {_text(wanted)} as the signed statement says, "
            f"found {_text(found)}",
        )
        for field in fields(Statement)
        if (wanted := getattr(signed, field.name))
        != (found := getattr(claimed, field.name))
    ]


def to_specs(tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=t.name, datatype=t.datatype, shape=tuple(t.shape))
        for t in tensors
    )


def to_tensors(specs: Sequence[TensorSpec]) -> list[Tensor]:
    return [
        Tensor(name=s.name, datatype=s.datatype, shape=list(s.shape)) for s in specs
    ]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value[:16]):.400}]"
    return f"{value!r:.120}" if isinstance(value, str) else str(value)
