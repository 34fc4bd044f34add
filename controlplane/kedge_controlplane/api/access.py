# SPDX-License-Identifier: Apache-2.0
"""Who may call what: every route goes through a gate that knows its callers.

Finer rules per operator are not here yet; an operator whose token names a namespace
stays in it.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from kedge_controlplane.api.seams import Authenticator, Principal, PrincipalKind
from kedge_controlplane.errors import ForbiddenError

Handler = Callable[[Request], Awaitable[Response]]

TLS_EXTENSION: Final = "kedge.tls"
"""In the ASGI scope's extensions: {"peer_certificate": DER or None}."""


class Gate:
    """Wraps handlers; inside, `principal_of` tells who calls."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def admits(self, handler: Handler, *kinds: PrincipalKind) -> Handler:
        """Let only principals of `kinds` through to the handler."""

        async def guarded(request: Request) -> Response:
            principal = await self._authenticator.authenticate(
                request.headers, _peer_certificate(request)
            )
            if principal.kind not in kinds:
                raise ForbiddenError(
                    f"{principal.kind} {principal.name!r:.100} may not "
                    f"{request.method} {request.url.path:.200}"
                )
            request.state.principal = principal
            return await handler(request)

        return guarded

    def operators(self, handler: Handler) -> Handler:
        """Let operators through, each within its namespace."""

        async def confined(request: Request) -> Response:
            confine(request, request.path_params.get("namespace"))
            return await handler(request)

        return self.admits(confined, PrincipalKind.OPERATOR)


def principal_of(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


def confine(request: Request, namespace: str | None) -> None:
    """Refuse a principal outside of its namespace; None is all of them."""
    principal = principal_of(request)
    if principal.namespace and principal.namespace != namespace:
        raise ForbiddenError(
            f"{principal.kind} {principal.name!r:.100}: expected namespace "
            f"{principal.namespace}, found {namespace or 'all namespaces'}"
        )


def _peer_certificate(request: Request) -> bytes | None:
    extensions: dict[str, Any] = request.scope.get("extensions") or {}
    certificate: bytes | None = extensions.get(TLS_EXTENSION, {}).get(
        "peer_certificate"
    )
    return certificate
