# SPDX-License-Identifier: Apache-2.0
"""Kinds as operators name them, and their rows in a table."""

from typing import Final

from kedge_controlplane.cli.console import age
from kedge_controlplane.client import Document
from kedge_controlplane.errors import InputError
from kedge_controlplane.model.registry import KINDS, Kind

_BY_NAME: Final = {
    name.lower(): kind
    for kind in KINDS
    for name in (kind.kind, kind.plural, *kind.short_names)
}


def resolve(text: str) -> Kind:
    """`fleet`, `fleets`, `Fleet` or `fl` to the kind. Raises InputError."""
    kind = _BY_NAME.get(text.lower().removesuffix(".kedge.dev"))
    if kind is None:
        names = ", ".join(
            f"{k.plural} ({', '.join(k.short_names)})" if k.short_names else k.plural
            for k in KINDS
        )
        raise InputError(
            f"expected a kind, found {text!r:.80}", advice=f"Kinds: {names}"
        )
    return kind


def split_reference(kind: str, name: str | None) -> tuple[Kind, str | None]:
    """`fleet digits` or `fleet/digits` to the kind and name. Raises InputError."""
    if "/" not in kind:
        return resolve(kind), name
    if name is not None:
        raise InputError(f"expected KIND NAME or KIND/NAME, found {kind} {name}")
    kind, _, name = kind.partition("/")
    return resolve(kind), name


def header(kind: Kind, *, wide: bool) -> list[str]:
    columns = [c.name.upper() for c in kind.columns if wide or c.priority == 0]
    return ["NAME", *columns, "AGE"]


def cells(kind: Kind, document: Document, *, wide: bool) -> list[str]:
    """One object's row under `header`."""
    metadata = document.get("metadata", {})
    values = [
        str(c.value(document)) or "-" for c in kind.columns if wide or c.priority == 0
    ]
    created = str(metadata.get("creationTimestamp", ""))
    return [str(metadata.get("name", "")), *values, age(created)]
