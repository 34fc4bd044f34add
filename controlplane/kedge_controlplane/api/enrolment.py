# SPDX-License-Identifier: Apache-2.0
"""How devices come in: one-time tokens, and requests that show such a token.

A token is seen once, in the answer that makes it; only its hash is kept. A device that
lost the answer to its request sends it again and gets the same one, or reads what it
made.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from kedge_controlplane.api.access import confine, principal_of
from kedge_controlplane.api.addressing import place, shown
from kedge_controlplane.api.answers import JsonResponse
from kedge_controlplane.api.auth import bearer_token
from kedge_controlplane.api.body import read_document
from kedge_controlplane.api.parameters import read_dry_run
from kedge_controlplane.api.reads import Reads
from kedge_controlplane.api.rights import check_may_create
from kedge_controlplane.api.seams import Enrolment, PrincipalKind
from kedge_controlplane.api.validation import to_resource
from kedge_controlplane.errors import BadRequestError, ForbiddenError
from kedge_controlplane.model.enrollment import EnrollmentRequest
from kedge_controlplane.model.meta import KedgeModel, Labels, ObjectMeta, Resource
from kedge_controlplane.model.registry import BY_KIND, Kind
from kedge_controlplane.store import tokens
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.tokens import Purpose, new_token, read_token

_REQUESTS: Final = BY_KIND["EnrollmentRequest"]
_WEEK_S: Final = 7 * 24 * 3600


class EnrollmentTokenSpec(KedgeModel):
    labels: Labels = Field(default_factory=dict, description="Of the device.")
    ttl_seconds: int = Field(3600, ge=60, le=_WEEK_S)


class EnrollmentTokenStatus(KedgeModel):
    token: str
    expires: str


class EnrollmentToken(Resource):
    """Admits one device; can only be created."""

    kind: Literal["EnrollmentToken"] = "EnrollmentToken"
    spec: EnrollmentTokenSpec = Field(default_factory=EnrollmentTokenSpec)
    status: EnrollmentTokenStatus | None = None


_TOKENS: Final = Kind(model=EnrollmentToken, plural="enrollmenttokens")


class EnrolmentApi:
    """Handlers around enrolment."""

    def __init__(
        self,
        *,
        store: Store,
        enrolment: Enrolment,
        reads: Reads,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._enrolment = enrolment
        self._reads = reads
        self._clock = clock

    async def create_token(self, request: Request) -> Response:
        """Make a one-time token; an operator's doing."""
        namespace = request.path_params["namespace"]
        document = place(await read_document(request), _TOKENS, namespace=namespace)
        document.pop("status", None)
        wanted = to_resource(_TOKENS, document)
        if not isinstance(wanted, EnrollmentToken):
            raise TypeError(type(wanted).__name__)
        text = new_token(Purpose.ENROLMENT)
        stored = self._row(text, wanted)
        if not read_dry_run(request.query_params):
            await self._store.write(lambda within: tokens.add(within, stored))
        made = EnrollmentToken(
            metadata=ObjectMeta(
                name=stored.id,
                namespace=namespace,
                creation_timestamp=stored.created,
            ),
            spec=wanted.spec,
        )
        expires = f"{stored.expires:%Y-%m-%dT%H:%M:%SZ}"
        status = EnrollmentTokenStatus(token=text, expires=expires)
        return JsonResponse(shown(made.model_copy(update={"status": status})), 201)

    async def create_request(self, request: Request) -> Response:
        """Enrol the device that shows a token; nobody else can ask for it."""
        confine(request, request.path_params["namespace"])
        if principal_of(request).kind is PrincipalKind.OPERATOR:
            check_may_create(_REQUESTS)
        if read_dry_run(request.query_params):
            raise BadRequestError("dryRun: enrolment cannot be rehearsed")
        document = place(
            await read_document(request),
            _REQUESTS,
            namespace=request.path_params["namespace"],
        )
        document.pop("status", None)
        wanted = to_resource(_REQUESTS, document)
        if not isinstance(wanted, EnrollmentRequest):
            raise TypeError(type(wanted).__name__)
        made = await self._enrolment.enrol(wanted, bearer_token(request.headers))
        return JsonResponse(shown(made), 201)

    async def get_request(self, request: Request) -> Response:
        """Read a request; the bearer of a token sees the one that is named after it."""
        confine(request, request.path_params["namespace"])
        principal, name = principal_of(request), request.path_params["name"]
        own = f"er-{principal.name}"
        if principal.kind is not PrincipalKind.OPERATOR and name != own:
            raise ForbiddenError(f"this token may only read enrollmentrequests {own}")
        return await self._reads.get_of(_REQUESTS, request)

    def _row(self, text: str, wanted: EnrollmentToken) -> tokens.Token:
        presented, now = read_token(text), self._clock()
        return tokens.Token(
            id=presented.id,
            namespace=wanted.namespace,
            purpose=Purpose.ENROLMENT,
            secret_sha256=presented.secret_sha256,
            user="",
            labels=wanted.spec.labels,
            expires=now + timedelta(seconds=wanted.spec.ttl_seconds),
            created=now,
        )
