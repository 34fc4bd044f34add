# SPDX-License-Identifier: Apache-2.0
"""Everything the control plane raises, by what the catcher has to do.

ControlPlaneError
  x StatusError            an answer to an API caller, in the Kubernetes Status shape
    - BadRequestError      400 BadRequest
    - UnauthorizedError    401 Unauthorized
    - ForbiddenError       403 Forbidden
    - NotFoundError        404 NotFound
    - MethodNotAllowedError 405 MethodNotAllowed
    - AlreadyExistsError   409 AlreadyExists
    - ConflictError        409 Conflict: the object changed; read it again
    - GoneError            410 Expired: list again, then watch
    - TooLargeError        413 RequestEntityTooLarge
    - UnsupportedMediaTypeError 415 UnsupportedMediaType
    - InvalidError         422 Invalid, with a cause per field
    - TooManyRequestsError 429 TooManyRequests
    - UnavailableError     503 ServiceUnavailable: the database did not do it; try again
  x LoopError              an instruction to the reconcile loop
    - PermanentError       record it and stop; only a change of the object helps
    - TransientError       try again after `delay_s`
  x TrustError             a key, certificate, token or signature that does not hold
  x ArtifactError          uploaded bytes that are not what they should be
  x SettingsError          our own configuration
  x ProcessError           a process of the demo ended, or did not start
  x ClientError            what `kedge` could not do, with advice for its caller
    - InputError           what it was given: arguments, files, kubeconfig
    - UnreachableError     the server does not answer, or does not answer as ours does
    - OutcomeError         what was asked about went wrong, such as a rollout
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One reason of an InvalidError; `field` is a path such as spec.release."""

    reason: str  # FieldValueInvalid, FieldValueRequired, FieldValueNotFound …
    message: str
    field: str


class ControlPlaneError(Exception):
    """Base; `diagnostics()` is what a person sees."""

    next_step: ClassVar[str] = ""

    def diagnostics(self) -> str:
        return f"{self}\n{self.next_step}" if self.next_step else str(self)


class StatusError(ControlPlaneError):
    """Base of answers; `to_status()` is the body."""

    code: ClassVar[int] = 500
    reason: ClassVar[str] = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        kind: str = "",
        name: str = "",
        causes: Sequence[Cause] = (),
        retry_after_s: int = 0,
    ) -> None:
        super().__init__(message)
        self.kind = kind  # plural, as Kubernetes has it in details.kind
        self.name = name
        self.causes = tuple(causes)
        self.retry_after_s = retry_after_s

    def to_status(self) -> dict[str, Any]:
        details: dict[str, Any] = {}
        if self.name:
            details["name"] = self.name
        if self.kind:
            details |= {"group": "kedge.dev", "kind": self.kind}
        if self.causes:
            details["causes"] = [
                {"reason": c.reason, "message": c.message, "field": c.field}
                for c in self.causes
            ]
        if self.retry_after_s:
            details["retryAfterSeconds"] = self.retry_after_s
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "code": self.code,
            **({"details": details} if details else {}),
        }


class BadRequestError(StatusError):
    code, reason = 400, "BadRequest"


class UnauthorizedError(StatusError):
    code, reason = 401, "Unauthorized"


class ForbiddenError(StatusError):
    code, reason = 403, "Forbidden"


class NotFoundError(StatusError):
    code, reason = 404, "NotFound"


class MethodNotAllowedError(StatusError):
    code, reason = 405, "MethodNotAllowed"


class AlreadyExistsError(StatusError):
    code, reason = 409, "AlreadyExists"


class ConflictError(StatusError):
    code, reason = 409, "Conflict"


class GoneError(StatusError):
    code, reason = 410, "Expired"


class TooLargeError(StatusError):
    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaTypeError(StatusError):
    code, reason = 415, "UnsupportedMediaType"


class InvalidError(StatusError):
    code, reason = 422, "Invalid"


class TooManyRequestsError(StatusError):
    code, reason = 429, "TooManyRequests"


class UnavailableError(StatusError):
    code, reason = 503, "ServiceUnavailable"


class LoopError(ControlPlaneError):
    pass


class PermanentError(LoopError):
    pass


class TransientError(LoopError):
    def __init__(self, message: str, *, delay_s: float) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class TrustError(ControlPlaneError):
    pass


class ArtifactError(ControlPlaneError):
    pass


class SettingsError(ControlPlaneError):
    pass


class ProcessError(ControlPlaneError):
    pass


class ClientError(ControlPlaneError):
    """Base; `advice` is what the operator can do next."""

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice

    def diagnostics(self) -> str:
        return f"{self}\n{self.advice}" if self.advice else str(self)


class InputError(ClientError):
    pass


class UnreachableError(ClientError):
    pass


class OutcomeError(ClientError):
    pass
