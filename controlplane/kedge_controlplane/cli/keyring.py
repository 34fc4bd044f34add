# SPDX-License-Identifier: Apache-2.0
"""A publisher's private keys: one PEM file each, for their owner only.

A key file is there whole or not at all.
"""

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer._crypto_signer import CryptoSigner

from kedge_controlplane.client import Document
from kedge_controlplane.errors import InputError
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.model.publisher import PublisherKey, PublisherKeySpec
from kedge_controlplane.trust.files import write_private

DEFAULT_NAME: Final = "publisher"

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MAKE_ONE: Final = "Make one with `kedge keys init --register`."


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key and the name it goes by on this machine."""

    name: str
    path: Path
    signer: CryptoSigner

    @property
    def keyid(self) -> str:
        return self.signer.public_key.keyid

    def to_object(self) -> Document:
        """The PublisherKey that lets a namespace believe this key; public parts."""
        key = self.signer.public_key
        publisher = PublisherKey(
            metadata=ObjectMeta(name=f"{self.name}-{key.keyid[:8]}"),
            spec=PublisherKeySpec.model_validate(
                {
                    "keyid": key.keyid,
                    "keytype": key.keytype,
                    "scheme": key.scheme,
                    "public": key.keyval["public"],
                }
            ),
        )
        return publisher.to_wire()


class Keyring:
    """The keys in one folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder or Path.home() / ".config" / "kedge" / "keys"

    def create(self, name: str) -> tuple[SigningKey, bool]:
        """Make the key `name`, or return the one that is there (False).

        Raises:
            InputError: A name that cannot be a file's, or a file that is no key.
        """
        if not _NAME.fullmatch(name):
            raise InputError(
                "expected a name of lower-case letters, digits and '-', "
                f"found {name!r:.80}"
            )
        path = self._path(name)
        if path.exists():
            return self._load(path), False
        signer = CryptoSigner.generate_ed25519()
        try:
            write_private(path, signer.private_bytes)
        except OSError as exc:
            raise InputError(f"{path}: {exc.strerror}") from exc
        return SigningKey(name=name, path=path, signer=signer), True

    def keys(self) -> list[SigningKey]:
        """Every key, by name. Raises InputError for a file that is none."""
        return [self._load(path) for path in sorted(self.folder.glob("*.pem"))]

    def choose(self, name: str | None) -> SigningKey:
        """The key `name`, or the only one.

        Raises:
            InputError: There is none, or there are several and no name was given.
        """
        if name is not None:
            path = self._path(name)
            if not path.is_file():
                raise InputError(
                    f"expected a key {name!r:.80} in {self.folder}, found none",
                    advice=_MAKE_ONE,
                )
            return self._load(path)
        keys = self.keys()
        if len(keys) == 1:
            return keys[0]
        if not keys:
            raise InputError(
                f"expected a publisher's key in {self.folder}, found none",
                advice=_MAKE_ONE,
            )
        names = ", ".join(key.name for key in keys)
        raise InputError(
            f"expected one key in {self.folder}, found {names}",
            advice="Choose one with --key.",
        )

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def _load(self, path: Path) -> SigningKey:
        try:
            mode = path.stat().st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise InputError(
                    f"{path}: expected a file that only its owner can read, "
                    f"found mode {stat.S_IMODE(mode):04o}",
                    advice=f"chmod 600 {path}",
                )
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as exc:
            raise InputError(f"{path}: {exc.strerror}") from exc
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise InputError(
                f"{path}: expected a private key in PEM without password"
            ) from exc
        if not isinstance(
            key, Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey
        ):
            raise InputError(
                f"{path}: expected an Ed25519, ECDSA or RSA key, "
                f"found {type(key).__name__}"
            )
        return SigningKey(name=path.stem, path=path, signer=CryptoSigner(key))
