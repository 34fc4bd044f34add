# SPDX-License-Identifier: Apache-2.0
"""What the API needs from others, and facts that it only passes on.

Each seam promises to raise nothing but StatusErrors for whatever a caller sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from kedge_controlplane.model.enrollment import EnrollmentRequest
from kedge_controlplane.model.meta import Resource


class PrincipalKind(StrEnum):
    OPERATOR = "operator"
    ENROLMENT = "enrolment"
    DEVICE = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who makes a request."""

    kind: PrincipalKind
    name: str  # user, token id or device
    namespace: str  # empty: every namespace
    groups: tuple[str, ...] = ()


class Authenticator(Protocol):
    async def authenticate(
        self, headers: Mapping[str, str], peer_certificate: bytes | None
    ) -> Principal:
        """Tell who sent these headers over a connection with this certificate (DER).

        Header names are lower-case. Raises UnauthorizedError.
        """
        ...


class Admission(Protocol):
    async def admit(self, new: Resource, old: Resource | None) -> Resource:
        """Judge an object about to be written; return it, possibly completed.

        Raises InvalidError with a cause per field.
        """
        ...


class Enrolment(Protocol):
    async def enrol(self, request: EnrollmentRequest, token: str) -> EnrollmentRequest:
        """Approve a device's request under a bearer token.

        Raises UnauthorizedError for the token and InvalidError for the request.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What clients learn about this control plane."""

    version: str
    gateway: str  # host:port of the device gateway
    director_keys: Sequence[Mapping[str, Any]]
