# SPDX-License-Identifier: Apache-2.0
"""Looks into a configuration: one JSON object that its JSON Schema allows.

Stricter than Python's reader, so that every reader sees the same thing: no member
twice, no NaN, no infinity. A schema may refer to itself but to no other document:
nothing is ever fetched. A schema's patterns run as regular expressions and can take for
ever; callers that do not know the author bound the time from outside.
"""

import json
import math
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

import jsonschema
import referencing
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable

from kedge_controlplane.inspection.limits import MAX_BYTES
from kedge_controlplane.inspection.report import MAX_PROBLEMS, Problem, Report
from kedge_wire.statement import ArtifactKind

MAX_SCHEMA_BYTES: Final = 64 * 1024

MAX_DEPTH: Final = 32
"""Deeper than any configuration that a person wrote."""

SCHEMA: Final = "(schema)"
"""Path of a problem that the schema has, not the values."""

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


class ConfigError(Exception):
    """Bytes that are not a configuration; says what was expected and found."""


def inspect_config(config: bytes, schema: dict[str, Any]) -> Report:
    """Report what is wrong with a configuration or its schema; no facts."""
    try:
        values = read_object(config)
        return Report(problems=tuple(_violations(values, schema)))
    except ConfigError as exc:
        return Report.of_problems(str(exc))


def read_object(text: bytes, *, what: str = "config") -> dict[str, Any]:
    """Read one JSON object strictly.

    Raises:
        ConfigError: Too large, too deep, not JSON, not an object, a member twice, or a
        number
            that is none.
    """
    limit = MAX_BYTES[ArtifactKind.CONFIG]
    if len(text) > limit:
        raise ConfigError(f"{what}: expected at most {limit} bytes, found {len(text)}")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_members,
            parse_constant=_finite,
            parse_float=_finite,
        )
        json.dumps(value, ensure_ascii=False).encode()  # no half of a character
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{what}: expected JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise ConfigError(
            f"{what}: expected a JSON object, found {type(value).__name__}"
        )
    if _deeper_than(MAX_DEPTH, value):
        raise ConfigError(f"{what}: expected at most {MAX_DEPTH} levels")
    return value


def canonical(values: dict[str, Any]) -> str:
    """The text by which two objects are the same; tells 1 from 1.0 and from true."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _violations(values: dict[str, Any], schema: dict[str, Any]) -> list[Problem]:
    declared = schema.get("$schema", DRAFT)
    if declared != DRAFT:
        return [_schema_problem(f"expected draft {DRAFT}, found {declared!r:.120}")]
    if len(canonical(schema)) > MAX_SCHEMA_BYTES:
        return [_schema_problem(f"expected at most {MAX_SCHEMA_BYTES} bytes")]
    nothing_else: referencing.Registry[Any] = referencing.Registry()
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema, registry=nothing_else)
        errors = islice(validator.iter_errors(values), MAX_PROBLEMS)
        return [
            Problem(path=_path(e.absolute_path), message=f"{e.message:.400}")
            for e in errors
        ]
    except SchemaError as exc:
        where = _path(exc.absolute_path) or "its root"
        return [_schema_problem(f"{exc.message:.400} (at {where})")]
    except Unresolvable as exc:
        return [
            _schema_problem(f"expected references within it, found {exc.ref!r:.120}")
        ]
    except RecursionError:
        return [_schema_problem("it refers to itself without end")]


def _schema_problem(message: str) -> Problem:
    return Problem(path=SCHEMA, message=f"schema: {message}")


def _path(steps: Iterable[str | int]) -> str:
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"member {twice[0]!r:.80} is there twice")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.40} is not a finite number")
    return number


def _deeper_than(levels: int, value: Any) -> bool:
    if not isinstance(value, dict | list):
        return False
    children = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(levels - 1, child) for child in children)
