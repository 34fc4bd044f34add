# SPDX-License-Identifier: Apache-2.0
"""What HTTP clients cannot do to the others, and large requests that they may make."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import orjson
import pytest
import uvloop

from kedge_agent.serving import http_server
from kedge_agent.serving.catalogue import MemoryCatalogue
from kedge_agent.serving.http import HttpApp
from kedge_agent.serving.http_server import serve_http
from kedge_agent.serving.oip import Limits
from kedge_agent.serving.service import InferenceService
from tests.simulators.served import OddModel

PATIENCE_S = 5


class Served:
    """A server of one model that answers what it is given, once it may."""

    def __init__(self, limits: Limits) -> None:
        self.model = OddModel("stuck")
        self.service = InferenceService(MemoryCatalogue([self.model]), limits=limits)
        self.port = 0

    @asynccontextmanager
    async def connection(
        self, *, buffer: int = 0
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect, with a small buffer for what arrives if it is given."""
        client = socket.socket()
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.connect(("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


@asynccontextmanager
async def serving(limits: Limits | None = None) -> AsyncIterator[Served]:
    served = Served(limits or Limits())
    listener = socket.create_server(("127.0.0.1", 0))
    served.port = listener.getsockname()[1]
    async with serve_http(HttpApp(served.service), sockets=[listener], drain_s=1):
        yield served


def request(size: int, *, binary_output: bool = False) -> bytes:
    """Make a request of one tensor of `size` bytes."""
    head = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [size // 4],
                    "parameters": {"binary_data_size": size},
                }
            ],
            "parameters": {"binary_data_output": binary_output},
        }
    )
    lines = (
        "POST /v2/models/stuck/infer HTTP/1.1",
        "Host: x",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head) + size}",
        "\r\n",
    )
    return "\r\n".join(lines).encode() + head + bytes(size)


async def answered(reader: asyncio.StreamReader) -> bytes:
    """Read one answer and return its status line."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    (length,) = (
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.startswith(b"content-length")
    )
    await asyncio.wait_for(reader.readexactly(length), PATIENCE_S)
    return head.split(b"\r\n")[0]


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Read until the server ends the connection, however it does."""
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    except ConnectionResetError:
        return b""


def on_uvloop(test: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run on the loop of the runtime, which reads larger pieces than asyncio's."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


@pytest.mark.parametrize("size", [80_000, 400_000, 602_112])
@pytest.mark.parametrize("piece", [None, 1000, 65_536], ids=["whole", "1 kB", "64 KiB"])
def test_large_bodies_are_not_taken_for_heads(size: int, piece: int | None) -> None:
    async def test() -> None:
        async with serving() as served, served.connection() as (reader, writer):
            served.model.release.set()
            whole = request(size, binary_output=True)
            step = piece or len(whole)
            for _ in range(10):
                for start in range(0, len(whole), step):
                    writer.write(whole[start : start + step])
                    await writer.drain()
                assert await answered(reader) == b"HTTP/1.1 200 OK"

    on_uvloop(test)


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["without end", "with its end"])
@pytest.mark.parametrize("before", [b"", request(80_000)], ids=["first", "second"])
def test_long_heads_are_refused(before: bytes, end: bytes) -> None:
    async def test() -> None:
        async with serving() as served, served.connection() as (reader, writer):
            served.model.release.set()
            if before:
                writer.write(before)
                assert await answered(reader) == b"HTTP/1.1 200 OK"
            writer.write(b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + end)
            assert (await ended(reader)).startswith(b"HTTP/1.1 400 ")

    on_uvloop(test)


async def test_endless_trailers_end_the_connection() -> None:
    async with (
        serving(Limits(arrival_s=30)) as served,
        served.connection() as (reader, writer),
    ):
        writer.write(
            b"POST /v2/models/stuck/infer HTTP/1.1\r\nHost: x\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: "
        )
        writer.write(b"a" * 500_000)
        await ended(reader)  # in time; the answer is lost where more came than was read


async def test_requests_sent_far_ahead_are_refused() -> None:
    async with serving() as served, served.connection() as (reader, writer):
        writer.write(request(4) + b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert (await ended(reader)).startswith(b"HTTP/1.1 400 ")


async def test_connections_beyond_the_bound_end_and_the_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    async with (
        serving() as served,
        served.connection() as (first, writer),
        served.connection(),
        served.connection() as (third, _),
    ):
        assert await ended(third) == b""
        writer.write(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await answered(first) == b"HTTP/1.1 200 OK"


async def test_answer_that_nobody_reads_counts_until_its_connection_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "WRITE_S", 0.3)
    size = 8_000_000
    async with serving(Limits(buffered_bytes=size + 1000)) as served:
        served.model.release.set()
        async with served.connection(buffer=4096) as (_, writer):
            writer.write(request(size, binary_output=True))
            await reached(served.model.asked.is_set)
            assert served.service.budget.taken_bytes >= size
            async with served.connection() as (reader, other):
                other.write(request(2000))
                assert b" 429 " in await answered(reader)
            await reached(lambda: served.service.budget.taken_bytes == 0)


async def reached(state: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not state():  # noqa: ASYNC110 - counts have no event
            await asyncio.sleep(0)


async def test_bodies_that_arrive_slowly_keep_no_place_from_others() -> None:
    async with (
        serving(Limits(in_flight=1)) as served,
        served.connection() as (_, slow),
        served.connection() as (reader, writer),
    ):
        served.model.release.set()
        slow.write(request(2000)[:-1])
        await reached(lambda: served.service.budget.taken_bytes >= 2000)
        writer.write(request(8))
        assert await answered(reader) == b"HTTP/1.1 200 OK"


async def test_body_that_stalls_is_given_up_before_an_answer_would_be() -> None:
    async with (
        serving(Limits(arrival_s=0.05)) as served,
        served.connection() as (reader, writer),
    ):
        writer.write(request(2000)[:-1])
        assert b" 504 " in await answered(reader)


async def test_client_that_leaves_ends_its_request() -> None:
    async with serving() as served:
        async with served.connection() as (_, writer):
            writer.write(request(8))
            await asyncio.wait_for(served.model.asked.wait(), PATIENCE_S)
        await asyncio.wait_for(served.model.gone.wait(), PATIENCE_S)
        await reached(lambda: served.service.budget.taken_bytes == 0)


async def test_answered_connection_that_only_sends_on_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "IDLE_S", 0.1)
    async with serving() as served, served.connection() as (reader, writer):
        writer.write(b"POST /absent HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        assert b" 404 " in await answered(reader)
        writer.write(b"1")
        assert await ended(reader) == b""
