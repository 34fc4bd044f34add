# SPDX-License-Identifier: Apache-2.0
"""Documents to objects; what is wrong becomes causes with Kubernetes field paths."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kedge_controlplane.errors import BadRequestError, Cause, InvalidError
from kedge_controlplane.model.meta import API_VERSION, GROUP, Resource
from kedge_controlplane.model.registry import Kind

T = TypeVar("T", bound=Resource)

CAUSE_LIMIT: Final = 32  # more do not help anybody

_REASONS: Final = {
    "missing": "FieldValueRequired",
    "enum": "FieldValueNotSupported",
    "literal_error": "FieldValueNotSupported",
    "too_long": "FieldValueTooMany",
    "string_too_long": "FieldValueTooLong",
}

_EXPECTED: Final = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "enum": "one of {expected}",
    "literal_error": "one of {expected}",
    "too_short": "a length of at least {min_length}",
    "too_long": "a length of at most {max_length}",
    "string_too_short": "a length of at least {min_length}",
    "string_too_long": "a length of at most {max_length}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
"""What pydantic's commonest errors mean, in the form of our own; the rest stay."""

_COUNTED: Final = frozenset(
    {"too_short", "too_long", "string_too_short", "string_too_long"}
)


def check_type(document: Mapping[str, Any], kind: Kind) -> None:
    """Refuse a document that says it is of another kind than its address."""
    for member, expected in (("apiVersion", API_VERSION), ("kind", kind.kind)):
        found = document.get(member, expected)
        if found != expected:
            raise BadRequestError(
                f"{member}: expected {expected}, found {found!r:.100}"
            )


def to_resource(kind: Kind, document: Mapping[str, Any]) -> Resource:
    """Validate a document; raises InvalidError naming every field that is wrong."""
    try:
        return kind.model.model_validate(dict(document) | {"kind": kind.kind})
    except ValidationError as error:
        details = error.errors(include_url=False)
        causes = dict.fromkeys(_cause(detail, document) for detail in details)
        raise invalid(kind, _name(document), list(causes)) from None


def invalid(kind: Kind, name: str, causes: Sequence[Cause]) -> InvalidError:
    """The 422 for an object, its message naming each field once more."""
    shown = causes[:CAUSE_LIMIT]
    found = "; ".join(f"{cause.field}: {cause.message}" for cause in shown)
    return InvalidError(
        f'{kind.kind}.{GROUP} "{name}" is invalid: {found}',
        kind=kind.plural,
        name=name,
        causes=shown,
    )


def check_immutable(kind: Kind, old: Resource, new: Resource) -> None:
    """Refuse a change of a spec that may not change; raises InvalidError."""
    if not kind.immutable_spec:
        return
    before, after = old.to_wire().get("spec", {}), new.to_wire().get("spec", {})
    causes = [
        Cause(reason="FieldValueInvalid", message="field is immutable", field=path)
        for path in _changes(before, after, "spec")
    ]
    if causes:
        raise invalid(kind, new.name, causes)


def _changes(before: Any, after: Any, path: str) -> Iterator[str]:
    if not (isinstance(before, dict) and isinstance(after, dict)):
        if before != after:
            yield path
        return
    for key in dict.fromkeys((*before, *after)):
        yield from _changes(before.get(key), after.get(key), f"{path}.{key}")


def _name(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name[:253] if isinstance(name, str) else ""


def _cause(detail: ErrorDetails, document: Mapping[str, Any]) -> Cause:
    what = detail["type"]
    if what == "extra_forbidden":
        message = "unknown field"
    elif what == "missing":
        message = "expected a value, found none"
    elif what in _EXPECTED:
        expected = _EXPECTED[what].format_map(detail.get("ctx", {}))
        message = f"expected {expected}, found {_found(what, detail['input'])}"
    else:
        message = detail["msg"].removeprefix("Value error, ")
    return Cause(
        reason=_REASONS.get(what, "FieldValueInvalid"),
        message=message[:300],
        field=_path(detail["loc"], document),
    )


def _found(what: str, value: Any) -> str:
    if what in _COUNTED and isinstance(value, str | list | dict):
        return str(len(value))
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return json.dumps(value, ensure_ascii=False, default=str)[:100]


def _path(location: Sequence[int | str], document: Mapping[str, Any]) -> str:
    """Write a location as Kubernetes does: spec.workloads[0].name.

    Steps below a scalar are pydantic's names of union members, not parts of the path.
    """
    path = ""
    value: Any = document
    for step in location:
        if isinstance(value, list):
            if not isinstance(step, int):
                break
            path += f"[{step}]"
            value = value[step] if step < len(value) else None
        elif isinstance(value, dict):
            path += f".{step!s:.100}" if path else f"{step!s:.100}"
            value = value.get(step)
        else:
            break
    return path
