# SPDX-License-Identifier: Apache-2.0
"""How host and component refuse: the `error` of `kedge:ai/types` as an exception.

A host function raises `Refusal` and its caller in the component gets the error; a
component's error leaves an exported function as `Refusal`. It never leaves the runtime:
`as_request_error` gives what the caller of a request sees.
"""

from enum import StrEnum
from typing import Final

from kedge_agent.errors import (
    GuestError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RequestError,
)


class Reason(StrEnum):
    """Cases of the error, by their names in the WIT."""

    INVALID_ARGUMENT = "invalid-argument"
    NOT_FOUND = "not-found"
    UNSUPPORTED = "unsupported"
    RESOURCE_EXHAUSTED = "resource-exhausted"
    INTERNAL = "internal"


MAX_MESSAGE: Final = 1024
"""Characters of a component's message that travel on; the rest is cut."""

_ERRORS: Final[dict[Reason, type[RequestError]]] = {
    Reason.INVALID_ARGUMENT: InvalidRequestError,
    Reason.NOT_FOUND: NotFoundError,
    Reason.UNSUPPORTED: GuestError,
    Reason.RESOURCE_EXHAUSTED: OverloadedError,
    Reason.INTERNAL: GuestError,
}


class Refusal(Exception):  # noqa: N818 - an answer of the interface, not an error of ours
    """One side refuses, and says why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message[:MAX_MESSAGE])
        self.reason = reason

    def as_request_error(self) -> RequestError:
        return _ERRORS[self.reason](str(self))


def invalid(message: str) -> Refusal:
    return Refusal(Reason.INVALID_ARGUMENT, message)


def exhausted(message: str) -> Refusal:
    return Refusal(Reason.RESOURCE_EXHAUSTED, message)
