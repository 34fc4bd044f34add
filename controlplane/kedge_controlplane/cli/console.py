# SPDX-License-Identifier: Apache-2.0
"""What a person or a script reads: tables, documents, errors.

Answers go to standard output, everything else to standard error, so that output can be
piped.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import typer
import yaml

from kedge_controlplane.errors import ControlPlaneError, StatusError

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def say(text: str) -> None:
    typer.echo(text)


def complain(text: str) -> None:
    typer.echo(text, err=True)


def explain(error: ControlPlaneError) -> str:
    """An error for a person: what, each cause on a line of its own, what to do next."""
    lines = [f"Error: {error.diagnostics()}"]
    if isinstance(error, StatusError):
        if error.causes:  # the message repeats them
            named = f"{error.kind} {error.name!r}" if error.name else error.kind
            what = named or "the request"
            lines = [f"Error: {what} is refused ({error.reason}):"]
        lines += [f"  {c.field or 'object'}: {c.message}" for c in error.causes]
        if error.retry_after_s:
            lines.append(f"Try again in {error.retry_after_s} s.")
    return "\n".join(lines)


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def as_yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return text.rstrip()


def widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]


def row(cells: Sequence[str], column_widths: Sequence[int]) -> str:
    """Cells side by side, three spaces apart, none cut."""
    padded = (f"{c:<{w}}" for c, w in zip(cells, column_widths, strict=True))
    return "   ".join(padded).rstrip()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows under one another; the first is the header."""
    column_widths = widths(rows)
    return "\n".join(row(cells, column_widths) for cells in rows)


def age(timestamp: str, *, now: datetime | None = None) -> str:
    """`2026-01-02T03:04:05Z` as 5d, 3h, 20m or 10s; what is no time, as it is."""
    try:
        then = datetime.fromisoformat(timestamp)
        seconds = int(((now or datetime.now(UTC)) - then).total_seconds())
    except (ValueError, TypeError):
        return timestamp or "<unknown>"
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return "0s"


def amount(length: int) -> str:
    """Bytes for people."""
    size = float(length)
    for unit in ("B", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004 - decimal units
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
