# SPDX-License-Identifier: Apache-2.0
"""The public keys a device was enrolled with, and whether one of them signed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from securesystemslib.signer._key import Key

from kedge_agent.errors import SettingsError, UntrustedError
from kedge_wire import dsse
from kedge_wire.v1.order_pb2 import Envelope

MAX_KEYS: Final = 64
"""Per role; each costs time when a signature names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKeys:
    """Who may order, and who may publish for which tenant."""

    director: tuple[Key, ...]
    publishers: Mapping[str, tuple[Key, ...]]  # by tenant

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read `directorKeys` and `publisherKeys`.

        Raises:
            SettingsError: A member that is missing or no public key.
        """
        publishers = document.get("publisherKeys")
        if not isinstance(publishers, dict):
            raise SettingsError(
                "publisherKeys: expected an object of tenants", element="publisherKeys"
            )
        director = _keys(document.get("directorKeys"), element="directorKeys")
        if not director:
            raise SettingsError(
                "directorKeys: expected at least one key, found none",
                element="directorKeys",
            )
        return cls(
            director=director,
            publishers={
                tenant: _keys(keys, element=f"publisherKeys.{tenant}")
                for tenant, keys in publishers.items()
            },
        )


def signed(
    envelope: Envelope, expected: str, keys: Iterable[Key], *, what: str, element: str
) -> bytes:
    """Return the payload if one of `keys` signed it as `expected`.

    Raises:
        UntrustedError: None of them did.
    """
    try:
        return dsse.verify(envelope, expected, keys, what=what)
    except dsse.SignatureError as exc:
        raise UntrustedError(str(exc), element=element) from exc


def _keys(value: Any, *, element: str) -> tuple[Key, ...]:
    if not isinstance(value, list) or len(value) > MAX_KEYS:
        raise SettingsError(
            f"{element}: expected a list of at most {MAX_KEYS} keys", element=element
        )
    return tuple(_key(item, element=f"{element}[{i}]") for i, item in enumerate(value))


def _key(value: Any, *, element: str) -> Key:
    if not isinstance(value, dict) or not isinstance(value.get("keyid"), str):
        raise SettingsError(
            f"{element}: expected a public key with a keyid, found {value!r:.80}",
            element=element,
        )
    members = {name: member for name, member in value.items() if name != "keyid"}
    try:
        return Key.from_dict(value["keyid"], members)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise SettingsError(
            f"{element}: expected a public key in securesystemslib's form ({exc})",
            element=element,
        ) from exc
