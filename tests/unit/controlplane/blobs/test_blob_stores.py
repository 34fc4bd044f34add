# SPDX-License-Identifier: Apache-2.0
"""The conformance suite of blob stores, and what is particular about the folder."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kedge_controlplane.blobs.base import BlobStore
from kedge_controlplane.blobs.folder import FolderBlobs
from kedge_controlplane.blobs.memory import MemoryBlobs
from kedge_controlplane.errors import (
    ArtifactError,
    BadRequestError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)

LIMIT = 1_000_000
DATA = bytes(range(256)) * 2048  # more than one chunk
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(params=["memory", "folder"])
async def blobs(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[BlobStore]:
    if request.param == "memory":
        yield MemoryBlobs(max_blob_bytes=LIMIT)
        return
    folder = await FolderBlobs.at(tmp_path / "blobs", max_blob_bytes=LIMIT)
    yield folder
    await folder.close()


async def chunks(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(blobs: BlobStore, start: int, length: int) -> bytes:
    blob = await blobs.open(DIGEST)
    return b"".join([chunk async for chunk in blob.read(start, length)])


async def test_what_was_put_is_read_back(blobs: BlobStore) -> None:
    await blobs.put(DIGEST, chunks(DATA), length=len(DATA))
    assert await blobs.stat(DIGEST) == len(DATA)
    assert await read(blobs, 0, len(DATA)) == DATA


@pytest.mark.parametrize(
    ("start", "length"), [(0, 0), (1, 1), (300_000, 5), (524_000, 9_999), (262_144, 1)]
)
async def test_a_range_is_exactly_that_part(
    blobs: BlobStore, start: int, length: int
) -> None:
    await blobs.put(DIGEST, chunks(DATA), length=len(DATA))
    assert await read(blobs, start, length) == DATA[start : start + length]


async def test_an_empty_blob_is_a_blob(blobs: BlobStore) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    await blobs.put(empty, chunks(b""), length=0)
    assert await blobs.stat(empty) == 0


async def test_putting_twice_does_no_harm(blobs: BlobStore) -> None:
    put = [blobs.put(DIGEST, chunks(DATA), length=len(DATA)) for _ in range(3)]
    await asyncio.gather(*put)
    assert await read(blobs, 0, len(DATA)) == DATA


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA[:-1], "expected 524288 bytes, found 524287"),
        (DATA + b"x", "found more than 524288"),
        (b"x" + DATA[1:], "expected sha256"),
    ],
    ids=["short", "long", "other"],
)
async def test_other_bytes_than_announced_leave_nothing(
    blobs: BlobStore, data: bytes, message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        await blobs.put(DIGEST, chunks(data), length=len(DATA))
    assert await blobs.stat(DIGEST) is None


async def test_a_blob_over_the_limit_is_refused_unread(blobs: BlobStore) -> None:
    with pytest.raises(TooLargeError, match="at most 1000000 bytes, found 1000001"):
        await blobs.put(DIGEST, chunks(DATA), length=LIMIT + 1)


async def test_what_is_not_there_is_said_so(blobs: BlobStore) -> None:
    assert await blobs.stat(DIGEST) is None
    with pytest.raises(NotFoundError, match=DIGEST):
        await blobs.open(DIGEST)
    await blobs.delete(DIGEST)


async def test_a_deleted_blob_is_gone(blobs: BlobStore) -> None:
    await blobs.put(DIGEST, chunks(DATA), length=len(DATA))
    await blobs.delete(DIGEST)
    assert await blobs.stat(DIGEST) is None


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", DIGEST.upper(), DIGEST + "\n", DIGEST[:-1]]
)
async def test_only_digests_are_names(blobs: BlobStore, name: str) -> None:
    with pytest.raises(BadRequestError, match="64 lower-case hexadecimal digits"):
        await blobs.put(name, chunks(DATA), length=len(DATA))
    with pytest.raises(BadRequestError):
        await blobs.open(name)
    with pytest.raises(BadRequestError):
        await blobs.stat(name)
    with pytest.raises(BadRequestError):
        await blobs.delete(name)


async def test_an_interrupted_put_leaves_nothing(blobs: BlobStore) -> None:
    started = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield DATA[:1000]
        started.set()
        await asyncio.Event().wait()

    putting = asyncio.ensure_future(blobs.put(DIGEST, stalled(), length=len(DATA)))
    await started.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await blobs.stat(DIGEST) is None


async def test_the_folder_keeps_no_halves(tmp_path: Path) -> None:
    blobs = await FolderBlobs.at(tmp_path)
    with pytest.raises(ArtifactError):
        await blobs.put(DIGEST, chunks(DATA[1:]), length=len(DATA))
    assert list((tmp_path / "tmp").iterdir()) == []
    await blobs.close()


async def test_halves_of_a_crash_are_removed_and_blobs_stay(tmp_path: Path) -> None:
    blobs = await FolderBlobs.at(tmp_path)
    await blobs.put(DIGEST, chunks(DATA), length=len(DATA))
    await blobs.close()
    (tmp_path / "tmp" / "half").write_bytes(DATA[:9])
    blobs = await FolderBlobs.at(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert await read(blobs, 0, len(DATA)) == DATA
    await blobs.close()


async def test_a_blob_deleted_under_a_reader_is_an_error_not_a_short_read(
    tmp_path: Path,
) -> None:
    blobs = await FolderBlobs.at(tmp_path)
    await blobs.put(DIGEST, chunks(DATA), length=len(DATA))
    blob = await blobs.open(DIGEST)
    reading = aiter(blob.read(0, len(DATA)))
    await anext(reading)
    await blobs.delete(DIGEST)
    with pytest.raises(NotFoundError, match="was deleted"):
        await anext(reading)
    await blobs.close()


async def test_a_disk_that_fails_is_unavailable(tmp_path: Path) -> None:
    blobs = await FolderBlobs.at(tmp_path)
    (tmp_path / "sha256" / DIGEST[:2]).write_text("in the way")
    with pytest.raises(UnavailableError, match="the blob folder failed"):
        await blobs.put(DIGEST, chunks(DATA), length=len(DATA))
    assert list((tmp_path / "tmp").iterdir()) == []
    await blobs.close()
