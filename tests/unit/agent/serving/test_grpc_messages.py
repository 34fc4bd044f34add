# SPDX-License-Identifier: Apache-2.0
"""What gRPC clients cannot do to the others, with a call of bytes in place of models.

The protocol's own messages cannot be here: tritonclient registers the same names.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import DecodeError

from kedge_agent.errors import NotFoundError
from kedge_agent.serving.budget import Budget
from kedge_agent.serving.catalogue import MemoryCatalogue
from kedge_agent.serving.grpc_messages import BoundedMessages
from kedge_agent.serving.oip import Limits
from kedge_agent.serving.service import InferenceService

PATIENCE_S = 5
MALFORMED = b"malformed"


class Echo:
    """A unary call that answers what it got, once it may."""

    def __init__(self, channel: grpc.aio.Channel, budget: Budget) -> None:
        self.budget = budget
        self.asked = asyncio.Event()
        self.release = asyncio.Event()
        self.gone = asyncio.Event()
        self._channel = channel

    async def answer(self, request: bytes, context: object) -> bytes:
        del context
        self.asked.set()
        if request == b"absent":
            raise NotFoundError("model absent: not found")
        if request == b"broken":
            raise RuntimeError("secret detail")
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return request

    def call(self, *messages: bytes, method: str = "Call") -> Any:
        """Start a call; without messages it says that none follow."""
        method_call: Any = self._channel.stream_unary(f"/test.Echo/{method}")
        return method_call(iter(messages), timeout=PATIENCE_S)

    def silent(self) -> Any:
        """Start a call that sends nothing, not even that it is done."""
        return self._channel.stream_unary("/test.Echo/Call")(timeout=PATIENCE_S)


def parsed(raw: bytes) -> bytes:
    if raw == MALFORMED:
        raise DecodeError
    return raw


@asynccontextmanager
async def serving(limits: Limits) -> AsyncIterator[Echo]:
    service = InferenceService(MemoryCatalogue(), limits=limits)
    server = grpc.aio.server(interceptors=[BoundedMessages(service)])
    port = server.add_insecure_port("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo = Echo(channel, service.budget)
        method: Any = grpc.unary_unary_rpc_method_handler(
            echo.answer, request_deserializer=parsed, response_serializer=bytes
        )
        handlers = grpc.method_handlers_generic_handler("test.Echo", {"Call": method})
        server.add_generic_rpc_handlers([handlers])
        await server.start()
        try:
            yield echo
        finally:
            await server.stop(None)


async def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


async def test_calls_that_send_nothing_are_given_up_and_let_others_through() -> None:
    async with serving(Limits(messages=1, arrival_s=0.1)) as echo:
        echo.release.set()
        silent = [echo.silent() for _ in range(3)]
        assert await echo.call(b"heard") == b"heard"
        for call in silent:
            code, why = await refused(call)
            assert code == "DEADLINE_EXCEEDED"
            assert "expected it within 0.1 s" in why


@pytest.mark.parametrize(
    ("messages", "code", "why"),
    [
        ([], "INVALID_ARGUMENT", "message: expected one, found none"),
        ([MALFORMED], "INVALID_ARGUMENT", "found 9 other bytes"),
        ([b"absent"], "NOT_FOUND", "model absent: not found"),
        ([b"broken"], "INTERNAL", "internal error"),
    ],
    ids=["none", "malformed", "refused", "broken"],
)
async def test_calls_that_fail_have_a_status_and_hold_nothing(
    messages: list[bytes], code: str, why: str
) -> None:
    async with serving(Limits()) as echo:
        found, details = await refused(echo.call(*messages))
        assert found == code
        assert why in details
        assert echo.budget.taken_bytes == 0


async def test_call_of_no_method_is_refused() -> None:
    async with serving(Limits()) as echo:
        assert (await refused(echo.call(b"", method="Other")))[0] == "UNIMPLEMENTED"


async def test_requests_under_way_are_bounded_together() -> None:
    async with serving(Limits(buffered_bytes=300_000)) as echo:
        held = echo.call(bytes(100_000))
        await asyncio.wait_for(echo.asked.wait(), PATIENCE_S)
        code, why = await refused(echo.call(bytes(100_000)))
        assert code == "RESOURCE_EXHAUSTED"
        assert "expected at most 300000 bytes" in why
        echo.release.set()
        await held
        assert await echo.call(bytes(100_000)) == bytes(100_000)
        assert echo.budget.taken_bytes == 0


async def test_caller_that_leaves_ends_its_request() -> None:
    async with serving(Limits()) as echo:
        call = echo.call(b"heard")
        await asyncio.wait_for(echo.asked.wait(), PATIENCE_S)
        call.cancel()
        await asyncio.wait_for(echo.gone.wait(), PATIENCE_S)
