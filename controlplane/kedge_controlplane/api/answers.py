# SPDX-License-Identifier: Apache-2.0
"""Answers: JSON, and a Kubernetes Status for whatever is refused or goes wrong."""

import logging
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from kedge_controlplane.errors import (
    ArtifactError,
    BadRequestError,
    MethodNotAllowedError,
    NotFoundError,
    StatusError,
    UnauthorizedError,
)

logger = logging.getLogger(__name__)


class JsonResponse(Response):
    """`content` is anything that orjson takes; nothing may be cached on the way."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200) -> None:
        super().__init__(
            orjson.dumps(content),
            status_code=status_code,
            headers={"cache-control": "no-cache, private"},
        )


def refusal(error: StatusError) -> Response:
    response = JsonResponse(error.to_status(), error.code)
    if error.retry_after_s:
        response.headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, UnauthorizedError):
        response.headers["www-authenticate"] = 'Bearer realm="kedge"'
    return response


async def answer_status_error(request: Request, error: Exception) -> Response:
    """Answer what our own code refused."""
    del request
    if not isinstance(error, StatusError):  # pragma: no cover - registered for these
        raise error
    return refusal(error)


async def answer_artifact_error(request: Request, error: Exception) -> Response:
    """Answer an upload that was not what it was announced to be."""
    del request
    return refusal(BadRequestError(str(error)))


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the router refused: clients branch on a Status, also on 404."""
    code = error.status_code if isinstance(error, HTTPException) else 404
    if code == MethodNotAllowedError.code:
        return refusal(
            MethodNotAllowedError(
                f"{request.method} is not allowed on {request.url.path:.200}"
            )
        )
    if code == NotFoundError.code:
        return refusal(unknown_path())
    return refusal(BadRequestError("the request could not be read"))


async def answer_bug(request: Request, error: Exception) -> Response:
    """Answer a bug of ours; the server logs its traceback."""
    logger.error(
        "request failed method=%s path=%s error=%s",
        request.method,
        request.url.path,
        type(error).__name__,
    )
    return refusal(StatusError("an internal error; the server's log has it"))


def unknown_path() -> NotFoundError:
    return NotFoundError("the server could not find the requested resource")


EXCEPTION_HANDLERS = {
    StatusError: answer_status_error,
    ArtifactError: answer_artifact_error,
    HTTPException: answer_http_exception,
    Exception: answer_bug,
}
