# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes envelope: metadata, conditions, and the base of every kind.

Fields are snake_case here and camelCase on the wire. Unknown fields are refused by
name: a typo in a manifest must never pass in silence.
"""

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

GROUP: Final = "kedge.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_LABEL_KEY = re.compile(
    r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")

MAX_NAME: Final = 253  # as Kubernetes: a DNS subdomain


def _object_name(value: str) -> str:
    if len(value) > MAX_NAME or not _NAME.fullmatch(value):
        raise ValueError(
            "expected at most 253 lower-case letters, digits, '-' and '.', "
            "beginning and ending with a letter or digit"
        )
    return value


def label_key(key: str) -> str:
    """Return `key`. Raises ValueError where it cannot be a label's."""
    if not _LABEL_KEY.fullmatch(key):
        raise ValueError(f"label key {key!r:.80} is not valid")
    return key


def label_value(text: str) -> str:
    """Return `text`. Raises ValueError where it cannot be a label's value."""
    if not _LABEL_VALUE.fullmatch(text):
        raise ValueError(f"label value {text!r:.80} is not valid")
    return text


def _labels(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        label_key(key)
        if not _LABEL_VALUE.fullmatch(text):
            raise ValueError(f"label {key}: value {text!r:.80} is not valid")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except (OverflowError, ValueError) as error:
        raise ValueError("expected a time that UTC can express") from error


def _rfc3339(value: datetime) -> str:
    whole = value.astimezone(UTC).replace(microsecond=0, tzinfo=None)
    return f"{whole.isoformat()}Z"  # strftime does not pad years


ObjectName = Annotated[str, AfterValidator(_object_name)]
Labels = Annotated[dict[str, str], AfterValidator(_labels)]
Time = Annotated[
    datetime, AfterValidator(_in_utc), PlainSerializer(_rfc3339, return_type=str)
]
"""UTC, whole seconds on the wire."""


class KedgeModel(BaseModel):
    """Base of everything in a manifest."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        validate_assignment=False,
        serialize_by_alias=True,
    )

    def to_wire(self) -> dict[str, Any]:
        """JSON-able camelCase form without unset optional members."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class OwnerReference(KedgeModel):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(KedgeModel):
    """Standard object's metadata; what the server sets is ignored on the way in."""

    name: ObjectName | None = Field(None, description="Unique within a namespace.")
    generate_name: str | None = Field(None, description="Prefix of a made-up name.")
    namespace: ObjectName | None = Field(None, description="The tenant.")
    uid: str | None = None
    resource_version: str | None = None
    generation: int | None = None
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    labels: Labels = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)
    owner_references: list[OwnerReference] = Field(default_factory=list)
    managed_fields: list[Any] | None = Field(None, exclude=True)
    self_link: str | None = Field(None, exclude=True)
    deletion_grace_period_seconds: int | None = Field(None, exclude=True)


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(KedgeModel):
    """As in Kubernetes: a named fact about an object, with its reason."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""
    last_transition_time: Time
    observed_generation: int | None = None


def set_condition(conditions: list[Condition], new: Condition) -> list[Condition]:
    """Replace the condition of its type; the time moves only with the status."""
    kept = [c for c in conditions if c.type != new.type]
    old = next((c for c in conditions if c.type == new.type), None)
    if old is not None and old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    return sorted([*kept, new], key=lambda c: c.type)


class Resource(KedgeModel):
    """Base of every kind: the envelope without spec and status."""

    api_version: str = API_VERSION
    kind: str
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)

    @property
    def name(self) -> str:
        return self.metadata.name or ""

    @property
    def namespace(self) -> str:
        return self.metadata.namespace or ""
