# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors as kubectl writes them in a query."""

import re
from typing import Final

from pydantic import ValidationError

from kedge_controlplane.errors import BadRequestError
from kedge_controlplane.model.selector import (
    MAX_REQUIREMENTS,
    LabelSelector,
    Operator,
    Requirement,
)

TEXT_LIMIT: Final = 4096

_KEY = r"(?P<key>[A-Za-z0-9][A-Za-z0-9_./-]{0,316})"
_VALUE = r"[A-Za-z0-9_.-]{0,63}"
_FORMS: Final = (
    re.compile(rf"{_KEY}\s+(?P<in>in|notin)\s*\((?P<values>[^()]*)\)"),
    re.compile(rf"{_KEY}\s*(?P<equals>==|=|!=)\s*(?P<value>{_VALUE})"),
    re.compile(rf"(?P<not>!?)\s*{_KEY}"),
)
_OUTSIDE_PARENTHESES: Final = re.compile(r",(?![^(]*\))")


def parse_label_selector(text: str) -> LabelSelector:
    """Read `a=1,b!=2,c in (x,y),d notin (z),e,!f`; raises BadRequestError."""
    if not text.strip():
        return LabelSelector()
    if len(text) > TEXT_LIMIT:
        raise BadRequestError(f"labelSelector: expected at most {TEXT_LIMIT} bytes")
    parts = _OUTSIDE_PARENTHESES.split(text)
    if len(parts) > MAX_REQUIREMENTS:
        raise BadRequestError(
            f"labelSelector: expected at most {MAX_REQUIREMENTS} requirements, "
            f"found {len(parts)}"
        )
    return LabelSelector(match_expressions=[_requirement(part) for part in parts])


def _requirement(text: str) -> Requirement:
    for form in _FORMS:
        match = form.fullmatch(text.strip())
        if match is not None:
            try:
                return _from_groups(match.groupdict(), text)
            except ValidationError as error:  # no label has such a key or value
                raise _unreadable(text) from error
    raise _unreadable(text)


def _from_groups(groups: dict[str, str | None], text: str) -> Requirement:
    key = groups["key"] or ""
    if "in" in groups:
        values = [value.strip() for value in (groups["values"] or "").split(",")]
        if not all(re.fullmatch(_VALUE, value) for value in values):
            raise _unreadable(text)
        operator = Operator.IN if groups["in"] == "in" else Operator.NOT_IN
        return Requirement(key=key, operator=operator, values=values)
    if "equals" in groups:
        operator = Operator.NOT_IN if groups["equals"] == "!=" else Operator.IN
        return Requirement(key=key, operator=operator, values=[groups["value"] or ""])
    operator = Operator.DOES_NOT_EXIST if groups["not"] else Operator.EXISTS
    return Requirement(key=key, operator=operator)


def _unreadable(text: str) -> BadRequestError:
    return BadRequestError(
        "labelSelector: expected key=value, key!=value, key in (a,b), key notin (a,b), "
        f"key or !key, found {text!r:.100}"
    )


def parse_field_selector(text: str) -> dict[str, str]:
    """Read `metadata.name=x,metadata.namespace=y`; raises BadRequestError."""
    fields: dict[str, str] = {}
    for part in text.split(",") if text else ():
        key, _, value = part.replace("==", "=").partition("=")
        if key not in ("metadata.name", "metadata.namespace") or not value:
            raise BadRequestError(
                "fieldSelector: expected metadata.name=… or metadata.namespace=…, "
                f"found {part!r:.100}"
            )
        if fields.setdefault(key, value) != value:
            raise BadRequestError(f"fieldSelector: {key} cannot have two values")
    return fields
