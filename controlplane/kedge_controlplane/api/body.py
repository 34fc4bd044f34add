# SPDX-License-Identifier: Apache-2.0
"""Request bodies: bounded, then decoded to one JSON object.

YAML is read without aliases and within a smaller limit, since its parser is slow; it
becomes plain JSON before anyone looks.
"""

import asyncio
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect, Request

from kedge_controlplane import yaml_text
from kedge_controlplane.errors import (
    BadRequestError,
    TooLargeError,
    UnsupportedMediaTypeError,
)

BODY_LIMIT: Final = 3 * 1024 * 1024  # bytes, as Kubernetes
YAML_LIMIT: Final = 512 * 1024
DEPTH_LIMIT: Final = yaml_text.MAX_DEPTH
BODY_TIMEOUT_S: Final = 60.0

JSON_TYPES: Final = ("application/json", "")
YAML_TYPES: Final = ("application/yaml", "application/x-yaml", "text/yaml")
MERGE_PATCH: Final = "application/merge-patch+json"


_TOO_DEEP: Final = f"expected at most {DEPTH_LIMIT} levels of nesting"


def media_type(request: Request) -> str:
    header: str = request.headers.get("content-type", "")
    return header.split(";", 1)[0].strip().lower()


async def read_document(request: Request) -> dict[str, Any]:
    """Return the JSON or YAML object in the body.

    Raises:
        BadRequestError: not one object, or too deep.
        TooLargeError: over the limit.
        UnsupportedMediaTypeError: neither JSON nor YAML.
    """
    kind = media_type(request)
    if kind in JSON_TYPES:
        return _json(await read_body(request, limit=BODY_LIMIT))
    if kind in YAML_TYPES:
        body = await read_body(request, limit=YAML_LIMIT)
        return _json(await asyncio.to_thread(_yaml_to_json, body))
    raise UnsupportedMediaTypeError(
        f"expected application/json or application/yaml, found {kind!r:.100}"
    )


async def read_patch(request: Request) -> dict[str, Any]:
    """Return the merge patch in the body."""
    kind = media_type(request)
    if kind != MERGE_PATCH:
        raise UnsupportedMediaTypeError(
            f"expected a patch of type {MERGE_PATCH}, found {kind!r:.100}"
        )
    return _json(await read_body(request, limit=BODY_LIMIT))


async def read_options(request: Request) -> dict[str, Any]:
    """Return the DeleteOptions in the body; there need not be one."""
    body = await read_body(request, limit=YAML_LIMIT)
    return _json(body) if body.strip() else {}


async def read_body(request: Request, *, limit: int) -> bytes:
    """Read at most `limit` bytes within a time limit."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError as error:
        raise BadRequestError(
            f"expected the whole body within {BODY_TIMEOUT_S:g} s"
        ) from error
    except ClientDisconnect as error:
        raise BadRequestError("the connection ended within the body") from error
    return bytes(body)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"expected a body of at most {limit} bytes")


def _yaml_to_json(body: bytes) -> bytes:
    try:
        return orjson.dumps(yaml_text.load(body))
    except (ValueError, TypeError) as error:
        raise BadRequestError(f"expected one YAML document: {error!s:.300}") from error


def _json(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"expected a JSON object: {error!s:.200}") from error
    if not isinstance(document, dict):
        raise BadRequestError(
            f"expected a JSON object, found {type(document).__name__}"
        )
    _check_depth(document)
    return document


def _check_depth(document: dict[str, Any]) -> None:
    """Bound what later recursion over the document costs."""
    level: list[Any] = [document]
    for _ in range(DEPTH_LIMIT):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return
        level = below
    raise BadRequestError(_TOO_DEEP)
