# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from kedge_agent.errors import SettingsError
from kedge_agent.listeners import Splice, address_of, listen
from kedge_agent.settings import Address

LOCAL = Address(host="127.0.0.1", port=0)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def spliced(
    target: Path, *, connections: int = 8, grace_s: float = 5
) -> AsyncIterator[Callable[[], Awaitable[Streams]]]:
    with closing(listen(LOCAL)) as listener:
        address = address_of(listener)
        splice = Splice(listener, target, connections=connections, grace_s=grace_s)
        task = asyncio.create_task(splice.run())
        writers = []

        async def connect() -> Streams:
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writers.append(writer)
            return reader, writer

        try:
            async with asyncio.timeout(20):
                yield connect
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for writer in writers:
                writer.close()


async def test_bytes_go_both_ways_unchanged(tmp_path: Path) -> None:
    async with (
        await asyncio.start_unix_server(echo, tmp_path / "s"),
        spliced(tmp_path / "s") as connect,
    ):
        reader, writer = await connect()
        data = bytes(range(256)) * 4096
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()


async def test_a_connection_waits_for_the_runtime(tmp_path: Path) -> None:
    async with spliced(tmp_path / "s") as connect:
        reader, writer = await connect()
        writer.write(b"early")
        async with await asyncio.start_unix_server(echo, tmp_path / "s"):
            assert await reader.readexactly(5) == b"early"
            writer.close()


async def test_a_connection_is_closed_when_the_runtime_does_not_come(
    tmp_path: Path,
) -> None:
    async with spliced(tmp_path / "s", grace_s=0.1) as connect:
        reader, _ = await connect()
        assert await reader.read() == b""


async def test_a_runtime_that_goes_closes_its_connections(tmp_path: Path) -> None:
    async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    async with (
        await asyncio.start_unix_server(leave, tmp_path / "s"),
        spliced(tmp_path / "s") as connect,
    ):
        reader, _ = await connect()
        assert await reader.read() == b"bye"


async def test_no_more_connections_than_allowed_are_carried_at_once(
    tmp_path: Path,
) -> None:
    async with (
        await asyncio.start_unix_server(echo, tmp_path / "s"),
        spliced(tmp_path / "s", connections=1) as connect,
    ):
        first_reader, first = await connect()
        first.write(b"1")
        assert await first_reader.readexactly(1) == b"1"
        second_reader, second = await connect()
        second.write(b"2")
        waiting = asyncio.create_task(second_reader.readexactly(1))
        first.write(b"3")
        assert await first_reader.readexactly(1) == b"3"
        assert not waiting.done()
        first.close()
        assert await waiting == b"2"


def test_an_address_in_use_is_named() -> None:
    with closing(listen(LOCAL)) as taken:
        address = address_of(taken)
        with pytest.raises(SettingsError, match=str(address)):
            listen(address)
