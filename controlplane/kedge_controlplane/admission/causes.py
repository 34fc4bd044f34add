# SPDX-License-Identifier: Apache-2.0
"""Causes of a refusal, and the refusal itself, in the words that Kubernetes uses."""

from collections.abc import Sequence

from kedge_controlplane.errors import Cause, InvalidError
from kedge_controlplane.model.meta import GROUP, Resource
from kedge_controlplane.model.registry import kind_of


def invalid(field: str, message: str) -> Cause:
    return Cause(reason="FieldValueInvalid", message=message, field=field)


def missing(field: str, message: str) -> Cause:
    """`field` names something that is not there."""
    return Cause(reason="FieldValueNotFound", message=message, field=field)


def refusal(resource: Resource, causes: Sequence[Cause]) -> InvalidError:
    """The error that says why `resource` is not stored."""
    kind = kind_of(resource)
    listed = ", ".join(f"{cause.field}: {cause.message}" for cause in causes)
    text = listed if len(causes) == 1 else f"[{listed}]"
    return InvalidError(
        f'{kind.kind}.{GROUP} "{resource.name}" is invalid: {text}',
        kind=kind.plural,
        name=resource.name,
        causes=causes,
    )
