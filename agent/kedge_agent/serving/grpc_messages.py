# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the messages of gRPC calls under bounds.

gRPC reads a call's message before it tells anybody of the call, for as long as the
client likes. So each call is taken as a stream, which is the same on the wire, and its
one message is read here: a few at a time, each within a time. Until then a call costs
little more than its metadata. From then on its bytes count, and so do those of its
answer until they are written. A client that reads no answer keeps its share until its
connection ends: gRPC lets nobody end a call before.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from kedge_agent.errors import AgentError, InvalidRequestError
from kedge_agent.serving.errors import DeadlineError, message_to_caller
from kedge_agent.serving.service import InferenceService

COPIES: Final = 2
"""A message is held as it was parsed, and its tensors once more."""

Context = grpc.aio.ServicerContext[Any, Any]
Found = Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    code: grpc.StatusCode
    message: str


class BoundedMessages(grpc.aio.ServerInterceptor):
    """Between a server and the unary calls of its servicers.

    An `AgentError` of a servicer becomes the call's status, anything else a status
    that says nothing.
    """

    def __init__(self, service: InferenceService) -> None:
        self._limits: Final = service.limits
        self._budget: Final = service.budget
        self._arriving: Final = asyncio.Semaphore(service.limits.messages)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Found],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Give the handler of a call; None where there is no such method."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None

        async def call(messages: object, context: Context) -> None:
            del messages
            answer = await self._outcome(handler, context)
            if isinstance(answer, _Refusal):
                await context.abort(answer.code, answer.message)
            try:
                await context.write(answer)
            finally:
                self._budget.give_back(len(answer))

        return grpc.stream_stream_rpc_method_handler(call)

    async def _outcome(self, handler: Any, context: Context) -> bytes | _Refusal:
        """Answer, with its bytes taken, or say why not.

        The exception ends here: its traceback holds the request, and gRPC keeps what it
        aborts with, and all that led to that, until its call is collected.
        """
        try:
            answer = await self._answer(handler, context)
            self._budget.take(len(answer))
        except AgentError as exc:
            return _Refusal(code=_status(exc.code), message=message_to_caller(exc))
        except Exception:
            # The process edge: a bug costs one call and tells its caller nothing.
            logger.exception("call failed")
            return _Refusal(code=grpc.StatusCode.INTERNAL, message="internal error")
        return answer

    async def _answer(self, handler: Any, context: Context) -> bytes:
        raw = await self._read(context)
        with self._budget.holding(COPIES * len(raw)):
            try:
                request = handler.request_deserializer(raw)
            except DecodeError as exc:
                raise InvalidRequestError(
                    f"message: expected one of this call, found {len(raw)} other bytes"
                ) from exc
            del raw
            response = await handler.unary_unary(request, context)
            answer: bytes = handler.response_serializer(response)
            return answer

    async def _read(self, context: Context) -> bytes:
        limits = self._limits
        try:
            async with (
                asyncio.timeout(limits.timeout_s),
                self._arriving,
                asyncio.timeout(min(limits.arrival_s, limits.timeout_s)),
            ):
                message: Any = await context.read()
        except TimeoutError as exc:
            raise DeadlineError(
                f"message: expected it within {limits.arrival_s} s of its turn, and "
                f"its turn within {limits.timeout_s} s"
            ) from exc
        if not isinstance(message, bytes):
            raise InvalidRequestError("message: expected one, found none")
        return message


def _status(code: str) -> grpc.StatusCode:
    return grpc.StatusCode.__members__.get(code, grpc.StatusCode.INTERNAL)
