# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol over HTTP, as a plain ASGI application.

Everything is answered in JSON; refusals are `{"error": "..."}` with a status, never a
traceback. A request is admitted before its body is read, and the body counts against a
bound over all requests until it is answered. Parsing stays on the event loop: it holds
the interpreter's lock wherever it runs, so another thread would not free anybody.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson

from kedge_agent.errors import (
    AgentError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
)
from kedge_agent.serving.catalogue import Served
from kedge_agent.serving.errors import (
    DeadlineError,
    TooLargeError,
    message_to_caller,
)
from kedge_agent.serving.oip_json import encode_answer, parse_request
from kedge_agent.serving.service import (
    EXTENSIONS,
    SERVER_NAME,
    SERVER_VERSION,
    InferenceService,
)
from kedge_wire.statement import TensorSpec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON_LENGTH: Final = b"inference-header-content-length"
"""Where a body's JSON ends and its binary data starts."""

STATUSES: Final = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""HTTP statuses of error codes; 500 for any other."""

MAX_DIGITS: Final = 18
"""Of a length in a header; more would be no length."""

logger = logging.getLogger(__name__)


class _GoneError(Exception):
    """The client left before its request was complete; there is nobody to answer."""


class _MethodError(Exception):
    """The path exists, the method does not; the message is the method that does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    status: int
    body: bytes
    headers: Headers = ((b"content-type", b"application/json"),)


class HttpApp:
    """The ASGI application; used from one event loop."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            reply = await self._reply(scope, receive)
        except _GoneError:
            return
        except _MethodError as exc:
            allow = str(exc)
            message = f"method: expected {allow}, found {scope['method']:.20}"
            reply = _json({"error": message}, 405, (b"allow", allow.encode()))
        except AgentError as exc:
            reply = _refusal(exc)
        except Exception:
            # The process edge: a bug costs one request and tells its caller nothing.
            logger.exception("request failed path=%s", scope["path"])
            reply = _json({"error": "internal error"}, 500)
        length = (b"content-length", str(len(reply.body)).encode())
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [length, *reply.headers],
            }
        )
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, scope: Scope, receive: Receive) -> _Reply:
        match scope["path"].split("/"):
            case ["", "v2", "models", name, "versions", version, *rest]:
                return await self._model(name, version, rest, scope, receive)
            case ["", "v2", "models", name, *rest]:
                return await self._model(name, "", rest, scope, receive)
            case ["", "v2", *rest]:
                return self._server(rest, scope)
        raise _no_such_path(scope)

    def _server(self, rest: list[str], scope: Scope) -> _Reply:
        match rest:
            case []:
                _expect(scope, "GET")
                return _json(
                    {
                        "name": SERVER_NAME,
                        "version": SERVER_VERSION,
                        "extensions": EXTENSIONS,
                    }
                )
            case ["health", "live"]:
                _expect(scope, "GET")
                return _json({"live": True})
            case ["health", "ready"]:
                _expect(scope, "GET")
                ready = self._service.ready()
                return _json({"ready": ready}, 200 if ready else 503)
        raise _no_such_path(scope)

    async def _model(
        self, name: str, version: str, rest: list[str], scope: Scope, receive: Receive
    ) -> _Reply:
        match rest:
            case []:
                _expect(scope, "GET")
                return _json(_metadata(self._service.catalogue.get(name, version)))
            case ["ready"]:
                _expect(scope, "GET")
                ready = self._service.catalogue.get(name, version).ready
                return _json({"name": name, "ready": ready}, 200 if ready else 503)
            case ["infer"]:
                _expect(scope, "POST")
                return await self._infer(name, version, scope, receive)
        raise _no_such_path(scope)

    async def _infer(
        self, name: str, version: str, scope: Scope, receive: Receive
    ) -> _Reply:
        service = self._service
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise InvalidRequestError("body: expected no Content-Encoding, found one")
        json_length = _number(headers, JSON_LENGTH)
        with service.admitted():
            async with self._body(headers, receive) as body:
                request = parse_request(
                    body, json_length=json_length, limits=service.limits
                )
                answer = await service.infer(
                    name, version, request, timeout_s=service.limits.timeout_s
                )
            encoded, json_end = encode_answer(answer, request)
        if json_end is None:
            return _Reply(status=200, body=encoded)
        return _Reply(
            status=200,
            body=encoded,
            headers=(
                (b"content-type", b"application/octet-stream"),
                (JSON_LENGTH, str(json_end).encode()),
            ),
        )

    @asynccontextmanager
    async def _body(
        self, headers: dict[bytes, bytes], receive: Receive
    ) -> AsyncIterator[bytes]:
        """Read a body, and count it as buffered until it is done with."""
        limits = self._service.limits
        _within(_number(headers, b"content-length") or 0, limits.body_bytes)
        chunks: list[bytes] = []
        size = 0
        try:
            try:
                async with asyncio.timeout(limits.timeout_s):
                    more = True
                    while more:
                        chunk, more = await _received(receive)
                        chunks.append(chunk)
                        size += len(chunk)
                        self._buffer(len(chunk))
                        _within(size, limits.body_bytes)
            except TimeoutError as exc:
                raise DeadlineError(
                    f"body: expected all of it within {limits.timeout_s} s, "
                    f"found {size} bytes"
                ) from exc
            yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            self._buffered -= size

    def _buffer(self, size: int) -> None:
        self._buffered += size
        limit = self._service.limits.buffered_bytes
        if self._buffered > limit:
            raise OverloadedError(
                f"expected at most {limit} bytes of requests under way, found more"
            )


async def _received(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _GoneError
    return message.get("body", b""), message.get("more_body", False)


def _within(size: int, limit: int) -> None:
    if size > limit:
        raise TooLargeError(f"body: expected at most {limit} bytes, found {size}")


def _expect(scope: Scope, method: str) -> None:
    # The server leaves the body out of an answer to HEAD.
    if scope["method"] != method and (scope["method"], method) != ("HEAD", "GET"):
        raise _MethodError(method)


def _no_such_path(scope: Scope) -> NotFoundError:
    return NotFoundError(f"path {scope['path']!r:.200}: not found")


def _number(headers: dict[bytes, bytes], name: bytes) -> int | None:
    value = headers.get(name)
    if value is None:
        return None
    if not value.isdigit() or len(value) > MAX_DIGITS:
        raise InvalidRequestError(
            f"{name.decode()}: expected a number of bytes, found {value!r:.80}"
        )
    return int(value)


def _metadata(served: Served) -> dict[str, Any]:
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": served.platform,
        "inputs": [_tensor(spec) for spec in served.inputs],
        "outputs": [_tensor(spec) for spec in served.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _refusal(error: AgentError) -> _Reply:
    content = {"error": message_to_caller(error)}
    if isinstance(error, TooLargeError):
        # What is left of the body will not be read.
        return _json(content, 413, (b"connection", b"close"))
    status = STATUSES.get(error.code, 500)
    if status in (429, 503):
        return _json(content, status, (b"retry-after", b"1"))
    return _json(content, status)


def _json(
    content: dict[str, Any], status: int = 200, *headers: tuple[bytes, bytes]
) -> _Reply:
    return _Reply(
        status=status,
        body=orjson.dumps(content),
        headers=((b"content-type", b"application/json"), *headers),
    )
