# SPDX-License-Identifier: Apache-2.0
"""One suite for every fetcher, and what only HTTPS can do wrong."""

import asyncio
import hashlib
import random
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from kedge_agent.backoff import Backoff
from kedge_agent.disk import Store
from kedge_agent.errors import CorruptArtifactError, NetworkError
from kedge_agent.fetch.base import ATTEMPTS, Blob, Fetcher
from kedge_agent.fetch.https import HttpsFetcher
from kedge_agent.fetch.memory import MemoryFetcher
from kedge_agent.settings import TlsFiles
from tests.simulators.pki import Authority
from tests.simulators.repository import BlobServer, Fault, cut_after, flip_a_bit

DATA = random.Random(7).randbytes(1_500_000)
BLOB = Blob(sha256=hashlib.sha256(DATA).hexdigest(), length=len(DATA))
EMPTY = Blob(sha256=hashlib.sha256(b"").hexdigest(), length=0)


def at_once() -> Backoff:
    return Backoff(first_s=0.001, longest_s=0.001)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


@pytest.fixture
def blobs() -> dict[str, bytes]:
    return {BLOB.sha256: DATA, EMPTY.sha256: b""}


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server(
    blobs: dict[str, bytes], authority: Authority, tmp_path: Path
) -> Iterator[BlobServer]:
    with BlobServer(blobs, authority, tmp_path) as server:
        yield server


def https(server: BlobServer, store: Store, tls: TlsFiles) -> HttpsFetcher:
    return HttpsFetcher(
        store, server=server.url, tls=tls, connect_s=5, read_s=5, backoff=at_once
    )


@pytest.fixture
def over_https(
    server: BlobServer, store: Store, authority: Authority, tmp_path: Path
) -> Iterator[HttpsFetcher]:
    fetcher = https(
        server, store, authority.tls_files(tmp_path / "tls", authority.device())
    )
    yield fetcher
    fetcher.close()


@pytest.fixture(params=["memory", "https"])
def fetcher(
    request: pytest.FixtureRequest, store: Store, blobs: dict[str, bytes]
) -> Iterator[Fetcher]:
    if request.param == "https":
        yield request.getfixturevalue("over_https")
        return
    fetcher = MemoryFetcher(store, blobs, backoff=at_once)
    yield fetcher
    fetcher.close()


async def test_what_was_fetched_is_held(fetcher: Fetcher, store: Store) -> None:
    for blob in (BLOB, EMPTY):
        await fetcher.fetch(blob)
        assert store.holds(blob.sha256, length=blob.length)


async def test_a_resumed_download_ends_with_the_same_bytes(
    fetcher: Fetcher, store: Store
) -> None:
    store.download(BLOB.sha256, length=BLOB.length).write(DATA[:100_000])
    await fetcher.fetch(BLOB)
    assert store.path(BLOB.sha256).read_bytes() == DATA


@pytest.mark.parametrize("length", [100_000, len(DATA)], ids=["part", "whole"])
async def test_what_a_power_cut_tore_is_fetched_anew(
    fetcher: Fetcher, store: Store, length: int
) -> None:
    store.download(BLOB.sha256, length=BLOB.length).write(bytes(length))
    await fetcher.fetch(BLOB)
    assert store.path(BLOB.sha256).read_bytes() == DATA


async def test_what_is_nowhere_is_a_network_error(fetcher: Fetcher) -> None:
    with pytest.raises(NetworkError, match="0" * 64):
        await fetcher.fetch(Blob(sha256="0" * 64, length=3))


async def test_other_bytes_are_refused_and_not_kept(
    fetcher: Fetcher, store: Store, blobs: dict[str, bytes]
) -> None:
    blobs[BLOB.sha256] = DATA[:-1] + b"\x00"
    with pytest.raises(CorruptArtifactError, match=BLOB.sha256):
        await fetcher.fetch(BLOB)
    assert not store.path(BLOB.sha256).exists()
    assert store.resumable(BLOB.sha256) == 0


async def test_more_bytes_than_were_signed_are_refused(
    fetcher: Fetcher, blobs: dict[str, bytes]
) -> None:
    blobs[BLOB.sha256] = DATA + b"more"
    with pytest.raises(CorruptArtifactError):
        await fetcher.fetch(BLOB)


async def test_what_is_held_is_not_fetched_again(
    over_https: HttpsFetcher, server: BlobServer
) -> None:
    await over_https.fetch(BLOB)
    await over_https.fetch(BLOB)
    assert len(server.requests) == 1


async def test_a_line_that_is_cut_again_and_again_is_resumed(
    over_https: HttpsFetcher, server: BlobServer, store: Store
) -> None:
    server.fault = cut_after(300_000)
    await over_https.fetch(BLOB)
    assert store.holds(BLOB.sha256, length=BLOB.length)
    ranges = [found for _, found in server.requests]
    assert ranges[0] == ""
    assert all(found.startswith("bytes=") for found in ranges[1:])
    assert len(ranges) > ATTEMPTS - 1


async def test_a_line_that_brings_nothing_is_given_up(
    over_https: HttpsFetcher, server: BlobServer
) -> None:
    server.fault = cut_after(0)
    with pytest.raises(NetworkError):
        await over_https.fetch(BLOB)
    assert len(server.requests) == ATTEMPTS


async def test_a_flipped_bit_is_found(
    over_https: HttpsFetcher, server: BlobServer, store: Store
) -> None:
    server.fault = flip_a_bit
    with pytest.raises(CorruptArtifactError):
        await over_https.fetch(BLOB)
    server.fault = None
    await over_https.fetch(BLOB)
    assert store.holds(BLOB.sha256, length=BLOB.length)


def _whole(handler: BaseHTTPRequestHandler, data: bytes) -> bool:
    """A server that knows no ranges."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
    return True


def _wrong_range(handler: BaseHTTPRequestHandler, data: bytes) -> bool:
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 1-{len(data) - 1}/{len(data)}")
    handler.send_header("Content-Length", "0")
    handler.end_headers()
    return True


def _error(handler: BaseHTTPRequestHandler, data: bytes) -> bool:
    del data
    handler.send_response(503)
    handler.send_header("Content-Length", "0")
    handler.end_headers()
    return True


def _announces(length: int) -> Fault:
    """A store that has something else under this digest, and says so."""

    def fault(handler: BaseHTTPRequestHandler, data: bytes) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(data[:length])
        return True

    return fault


def _ends_before(handler: BaseHTTPRequestHandler, data: bytes) -> bool:
    """A shorter one, which answers a range behind its end as HTTP says."""
    if "Range" not in handler.headers:
        return _announces(500)(handler, data)
    handler.send_response(416)
    handler.send_header("Content-Length", "0")
    handler.end_headers()
    return True


@pytest.mark.parametrize(
    "fault",
    [_announces(len(DATA) - 1), _announces(len(DATA) + 1), _ends_before],
    ids=["shorter", "longer", "ends-before-the-range"],
)
@pytest.mark.parametrize("held", [0, 1000])
async def test_another_length_than_was_signed_is_no_matter_of_trying_again(
    over_https: HttpsFetcher,
    server: BlobServer,
    store: Store,
    fault: Fault,
    held: int,
) -> None:
    store.download(BLOB.sha256, length=BLOB.length).write(DATA[:held])
    server.fault = fault
    with pytest.raises(CorruptArtifactError, match="expected"):
        await over_https.fetch(BLOB)
    assert len(server.requests) <= 2


async def test_what_trickles_in_counts_before_a_whole_piece_is_there(
    over_https: HttpsFetcher, server: BlobServer, store: Store
) -> None:
    go_on = threading.Event()

    def hold(handler: BaseHTTPRequestHandler, data: bytes) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:1000])
        go_on.wait(10)
        handler.wfile.write(data[1000:])
        return True

    server.fault = hold
    task = asyncio.create_task(over_https.fetch(BLOB))
    async with asyncio.timeout(10):
        while store.resumable(BLOB.sha256) != 1000:  # noqa: ASYNC110  # a file
            await asyncio.sleep(0.001)
    go_on.set()
    await task


async def test_a_server_without_tls_1_3_is_not_talked_to(
    over_https: HttpsFetcher, server: BlobServer
) -> None:
    server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(NetworkError, match=r"(?i)version"):
        await over_https.fetch(BLOB)


async def test_a_server_without_ranges_is_read_from_the_start(
    over_https: HttpsFetcher, server: BlobServer, store: Store
) -> None:
    store.download(BLOB.sha256, length=BLOB.length).write(DATA[:1000])
    server.fault = _whole
    await over_https.fetch(BLOB)
    assert store.holds(BLOB.sha256, length=BLOB.length)


@pytest.mark.parametrize("fault", [_wrong_range, _error])
async def test_an_answer_that_is_no_artifact_is_a_network_error(
    over_https: HttpsFetcher, server: BlobServer, fault: object
) -> None:
    server.fault = fault  # type: ignore[assignment]  # both are faults
    with pytest.raises(NetworkError, match="expected"):
        await over_https.fetch(BLOB)


async def test_a_device_without_certificate_gets_nothing(
    server: BlobServer, store: Store, tmp_path: Path, authority: Authority
) -> None:
    stranger = Authority().device()
    tls = authority.tls_files(tmp_path / "stranger", stranger)
    fetcher = https(server, store, tls)
    with pytest.raises(NetworkError):
        await fetcher.fetch(BLOB)
    fetcher.close()


async def test_a_cancelled_fetch_leaves_what_arrived_and_the_next_one_waits_for_it(
    over_https: HttpsFetcher, server: BlobServer, store: Store
) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(handler: BaseHTTPRequestHandler, data: bytes) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:600_000])
        loop.call_soon_threadsafe(arrived.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        return True

    server.fault = hold
    task = asyncio.create_task(over_https.fetch(BLOB))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.fault = None
    again = asyncio.create_task(over_https.fetch(BLOB))
    go_on.set()
    await again
    assert store.holds(BLOB.sha256, length=BLOB.length)
