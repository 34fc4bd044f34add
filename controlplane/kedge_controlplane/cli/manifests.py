# SPDX-License-Identifier: Apache-2.0
"""Reads manifests, YAML or JSON: files, folders, standard input.

What the fields mean is for the server to say.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kedge_controlplane import yaml_text
from kedge_controlplane.client import Document
from kedge_controlplane.errors import InputError

MAX_BYTES: Final = 3 * 1024 * 1024
"""The server takes no more in one object."""

MAX_NODES: Final = 200_000
"""YAML's anchors let a small file say a lot."""

SUFFIXES: Final = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One object as an operator wrote it, and where."""

    source: str
    document: Document


def read_manifests(places: Iterable[str]) -> list[Manifest]:
    """Read every object at `places`: files, folders, or `-` for standard input.

    Raises:
        InputError: A place that cannot be read, or that does not hold manifests.
    """
    manifests = [
        manifest
        for place in places
        for source, text in _texts(place)
        for manifest in _documents(source, text)
    ]
    if not manifests:
        raise InputError(f"expected manifests in {', '.join(places)}, found none")
    return manifests


def _texts(place: str) -> Iterator[tuple[str, bytes]]:
    if place == "-":
        yield (
            "standard input",
            _bounded("standard input", sys.stdin.buffer.read(MAX_BYTES + 1)),
        )
        return
    path = Path(place)
    try:
        files = [path]
        if path.is_dir():
            files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES)
        for file in files:
            with file.open("rb") as stream:
                text = stream.read(MAX_BYTES + 1)
            yield str(file), _bounded(str(file), text)
    except OSError as exc:
        raise InputError(f"{place}: {exc.strerror}") from exc


def _bounded(source: str, text: bytes) -> bytes:
    if len(text) > MAX_BYTES:
        raise InputError(f"{source}: expected at most {MAX_BYTES} bytes")
    return text


def _documents(source: str, text: bytes) -> Iterator[Manifest]:
    budget = _Budget()
    try:
        for number, value in enumerate(yaml_text.load_all(text), start=1):
            place = source if number == 1 else f"{source}, document {number}"
            yield from _objects(place, budget.plain(value))
    except ValueError as exc:
        raise InputError(f"{source}: expected YAML or JSON: {exc}") from exc


def _objects(source: str, value: Any) -> Iterator[Manifest]:
    if value is None:
        return
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise InputError(f"{source}: expected an object with a kind")
    if value["kind"] == "List":
        items = value.get("items", [])
        if not isinstance(items, list):
            raise InputError(f"{source}: items: expected a list")
        for index, item in enumerate(items):
            yield from _objects(f"{source}, items[{index}]", item)
        return
    yield Manifest(source=source, document=value)


class _Budget:
    """Copies YAML values to JSON values without nulls, and not without end."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def plain(self, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"expected at most {MAX_NODES} values")
        if isinstance(value, dict):
            return {
                str(key): self.plain(item)
                for key, item in value.items()
                if item is not None
            }
        if isinstance(value, list):
            return [self.plain(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"expected finite numbers, found {value}")
        return value
