# SPDX-License-Identifier: Apache-2.0
"""What a list asks for and what it answers; continue tokens are made and read here.

A token holds the revision of the first page and the last key. Later pages show later
states but carry the first page's revision: a watch from there misses nothing.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import orjson

from kedge_controlplane.errors import BadRequestError
from kedge_controlplane.model.selector import LabelSelector

E_co = TypeVar("E_co", covariant=True)

_TOKEN_LIMIT: Final = 1024  # two names of 253 bytes, a number and base64 fit well


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[E_co]):
    """Part of a list, ordered by namespace and name."""

    items: Sequence[E_co]
    resource_version: int
    continue_token: str = ""  # empty: this was the last page
    remaining: int | None = None  # unknown where a selector narrows the list


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    namespace: str | None = None  # None: every namespace
    name: str | None = None
    selector: LabelSelector = field(default_factory=LabelSelector)
    limit: int | None = None
    continue_token: str = ""

    @property
    def selects(self) -> bool:
        return self.selector != LabelSelector() or self.name is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where the next page begins: after this key."""

    resource_version: int
    namespace: str
    name: str

    def encode(self) -> str:
        parts = orjson.dumps([self.resource_version, self.namespace, self.name])
        return base64.urlsafe_b64encode(parts).decode()

    @classmethod
    def decode(cls, token: str) -> "Position":
        """Read a caller's token; raises BadRequestError."""
        try:
            parts = orjson.loads(base64.urlsafe_b64decode(token[:_TOKEN_LIMIT]))
        except (binascii.Error, ValueError) as error:
            raise _not_ours() from error
        match parts:
            case [int(version), str(namespace), str(name)]:
                return cls(resource_version=version, namespace=namespace, name=name)
        raise _not_ours()


def _not_ours() -> BadRequestError:
    return BadRequestError("expected a continue token from a list, found another text")
