# SPDX-License-Identifier: Apache-2.0
"""Types of component interfaces as values: comparable, and printed as WIT text.

A type that `NAMES` knows is printed by its name, so that messages stay short; every
other type is printed in full. Two types are equal when their structure is; aliases do
not count.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Primitive:
    """A type without parts, or one that the worlds do not use, by its WIT text."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ListOf:
    element: "WitType"

    def __str__(self) -> str:
        return f"list<{text(self.element)}>"


@dataclass(frozen=True, slots=True)
class TupleOf:
    items: tuple["WitType", ...]

    def __str__(self) -> str:
        return f"tuple<{', '.join(text(item) for item in self.items)}>"


@dataclass(frozen=True, slots=True)
class Record:
    fields: tuple[tuple[str, "WitType"], ...]

    def __str__(self) -> str:
        return f"record {{{_named(self.fields)}}}"


@dataclass(frozen=True, slots=True)
class Variant:
    cases: tuple[tuple[str, "WitType | None"], ...]

    def __str__(self) -> str:
        cases = (
            name if payload is None else f"{name}({text(payload)})"
            for name, payload in self.cases
        )
        return f"variant {{{', '.join(cases)}}}"


@dataclass(frozen=True, slots=True)
class Enum:
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"enum {{{', '.join(self.names)}}}"


@dataclass(frozen=True, slots=True)
class Result:
    ok: "WitType | None"
    error: "WitType | None"

    def __str__(self) -> str:
        ok = "_" if self.ok is None else text(self.ok)
        return (
            f"result<{ok}>"
            if self.error is None
            else f"result<{ok}, {text(self.error)}>"
        )


@dataclass(frozen=True, slots=True)
class Own:
    """A handle that moves to the callee."""

    resource: str

    def __str__(self) -> str:
        return self.resource


@dataclass(frozen=True, slots=True)
class Borrow:
    """A handle that stays the caller's."""

    resource: str

    def __str__(self) -> str:
        return f"borrow<{self.resource}>"


@dataclass(frozen=True, slots=True)
class Func:
    params: tuple[tuple[str, "WitType"], ...]
    result: "WitType | None"

    def __str__(self) -> str:
        answer = "" if self.result is None else f" -> {text(self.result)}"
        return f"func({_named(self.params)}){answer}"


WitType = Primitive | ListOf | TupleOf | Record | Variant | Enum | Result | Own | Borrow

BOOL: Final = Primitive("bool")
U8: Final = Primitive("u8")
U32: Final = Primitive("u32")
S64: Final = Primitive("s64")
F32: Final = Primitive("f32")
STRING: Final = Primitive("string")

NAMES: Final[dict[WitType, str]] = {}
"""Filled by the world that defines the names."""


def text(wit_type: WitType) -> str:
    """The name of a type that has one, else its structure."""
    return NAMES.get(wit_type) or str(wit_type)


def _named(parts: tuple[tuple[str, WitType], ...]) -> str:
    return ", ".join(f"{name}: {text(part)}" for name, part in parts)
