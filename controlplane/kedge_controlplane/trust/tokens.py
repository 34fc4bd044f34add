# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens `kedge_<purpose>_<id>_<secret>`, of which only a hash is ever stored.

The id finds the row, the hash of the 256-bit secret decides; a plain hash suffices for
a secret that nobody chose.
"""

import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Final

from kedge_controlplane.errors import TrustError

_TOKEN: Final = re.compile(r"kedge_(operator|enrolment)_([0-9a-f]{16})_([0-9a-f]{64})")


class Purpose(StrEnum):
    OPERATOR = "operator"
    ENROLMENT = "enrolment"


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedToken:
    """A token as somebody showed it, its secret already hashed."""

    purpose: Purpose
    id: str
    secret_sha256: str

    def matches(self, stored_sha256: str) -> bool:
        """Compare in constant time."""
        return secrets.compare_digest(self.secret_sha256, stored_sha256)


def new_token(purpose: Purpose) -> str:
    """Make up a token; show it once, store what `read_token` says of it."""
    return f"kedge_{purpose}_{secrets.token_hex(8)}_{secrets.token_hex(32)}"


def read_token(text: str) -> PresentedToken:
    """Take a token apart.

    Raises:
        TrustError: Not in the form of a token. The message does not repeat it.
    """
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise TrustError("expected a token kedge_<purpose>_<id>_<secret>")
    return PresentedToken(
        purpose=Purpose(match[1]),
        id=match[2],
        secret_sha256=sha256(match[3].encode()).hexdigest(),
    )
