# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol over HTTP, as a plain ASGI application.

Everything is answered in JSON; refusals are `{"error": "..."}` with a status, never a
traceback. A body counts against a bound over all callers from its first byte until it
is answered, its answer until that is written; a request is admitted once it is all
there. A client that leaves ends its request. Parsing stays on the event loop: it holds
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
)
from kedge_agent.serving.catalogue import Served
from kedge_agent.serving.errors import (
    DeadlineError,
    TooLargeError,
    message_to_caller,
)
from kedge_agent.serving.oip import InferAnswer, InferRequest
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

BYTES_PER_SECOND: Final = 1024 * 1024
"""What a body that takes long must arrive with."""

MAX_DIGITS: Final = 18
"""Of a length in a header; more would be no length."""

logger = logging.getLogger(__name__)


class _GoneError(Exception):
    """The client left before its answer; there is nobody to tell."""


class _MethodError(Exception):
    """The path exists, the method does not; the message is the method that does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    status: int
    body: bytes
    headers: Headers = ((b"content-type", b"application/json"),)
    held: int = 0
    """Bytes of the budget, to be given back once this is written."""


class HttpApp:
    """The ASGI application; used from one event loop."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

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
        try:
            await _send(reply, send)
        finally:
            self._service.budget.give_back(reply.held)

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
        limits = service.limits
        async with self._body(headers, receive) as body, _while_connected(receive):
            with service.admitted():
                request = parse_request(body, json_length=json_length, limits=limits)
                answer = await service.infer(
                    name, version, request, timeout_s=limits.timeout_s
                )
        return self._answer(answer, request)

    def _answer(self, answer: InferAnswer, request: InferRequest) -> _Reply:
        encoded, json_end = encode_answer(answer, request, limits=self._service.limits)
        headers: Headers = ((b"content-type", b"application/json"),)
        if json_end is not None:
            headers = (
                (b"content-type", b"application/octet-stream"),
                (JSON_LENGTH, str(json_end).encode()),
            )
        self._service.budget.take(len(encoded))
        return _Reply(status=200, body=encoded, headers=headers, held=len(encoded))

    @asynccontextmanager
    async def _body(
        self, headers: dict[bytes, bytes], receive: Receive
    ) -> AsyncIterator[bytes]:
        """Read a body, and count it as buffered until it is done with."""
        limits, budget = self._service.limits, self._service.budget
        _within(_number(headers, b"content-length") or 0, limits.body_bytes)
        chunks: list[bytes] = []
        size = 0
        started = asyncio.get_running_loop().time()
        try:
            try:
                async with asyncio.timeout(None) as deadline:
                    more = True
                    while more:
                        patience_s = limits.arrival_s + size / BYTES_PER_SECOND
                        deadline.reschedule(started + min(patience_s, limits.timeout_s))
                        chunk, more = await _received(receive)
                        _within(size + len(chunk), limits.body_bytes)
                        budget.take(len(chunk))
                        size += len(chunk)
                        chunks.append(chunk)
            except TimeoutError as exc:
                raise DeadlineError(
                    f"body: expected all of it within {limits.arrival_s} s, or "
                    f"{BYTES_PER_SECOND} bytes a second and {limits.timeout_s} s, "
                    f"found {size} bytes"
                ) from exc
            body = b"".join(chunks)
            chunks.clear()
            yield body
        finally:
            budget.give_back(size)


@asynccontextmanager
async def _while_connected(receive: Receive) -> AsyncIterator[None]:
    """Cancel what is inside when the client leaves; its request is all there.

    Raises:
        _GoneError: It left.
    """
    loop = asyncio.get_running_loop()
    left = asyncio.timeout(None)

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.reschedule(loop.time())

    try:
        async with left:
            watching = loop.create_task(watch(), name="http-disconnect")
            try:
                yield
            finally:
                watching.cancel()
    except TimeoutError as exc:
        if not left.expired():
            raise
        raise _GoneError from exc


async def _send(reply: _Reply, send: Send) -> None:
    """Answer, and return once the client took so much that little is left to write."""
    length = (b"content-length", str(len(reply.body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [length, *reply.headers],
        }
    )
    # The server takes any body at once; it is the message after it that waits.
    await send({"type": "http.response.body", "body": reply.body, "more_body": True})
    await send({"type": "http.response.body"})


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
