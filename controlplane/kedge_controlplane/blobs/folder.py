# SPDX-License-Identifier: Apache-2.0
"""Blobs as files: `<root>/sha256/<two digits>/<digest>`, and `<root>/tmp` for halves.

A blob is written to tmp, synced, renamed to its name and its folder synced: whatever
has the name is whole, also after a power cut. What is left in tmp after a crash is
removed at the next opening. One process writes a folder. File calls run on threads that
this object owns.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Self, TypeVar

from kedge_controlplane.blobs.base import (
    CHUNK_BYTES,
    MAX_BLOB_BYTES,
    Blob,
    BlobStore,
)
from kedge_controlplane.errors import ArtifactError, NotFoundError, UnavailableError

R = TypeVar("R")

_THREADS: Final = 4


class FolderBlobs(BlobStore):
    """Made by `open`; `close` ends its threads."""

    def __init__(self, root: Path, *, max_blob_bytes: int = MAX_BLOB_BYTES) -> None:
        super().__init__(max_blob_bytes=max_blob_bytes)
        self._names = root / "sha256"
        self._halves = root / "tmp"
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")

    @classmethod
    async def at(cls, root: Path, *, max_blob_bytes: int = MAX_BLOB_BYTES) -> Self:
        """Open the folder, made if need be, and remove what a crash left in it."""
        blobs = cls(root, max_blob_bytes=max_blob_bytes)
        await blobs._on_thread(blobs._prepare)
        return blobs

    async def close(self) -> None:
        """Wait for calls under way and end the threads."""
        await asyncio.to_thread(self._threads.shutdown)

    async def _put(self, digest: str, chunks: AsyncIterator[bytes]) -> None:
        half = self._halves / f"{digest}.{secrets.token_hex(4)}"
        file = await self._on_thread(partial(_create, half))
        try:
            async for chunk in chunks:
                await self._on_thread(partial(file.write, chunk))
            await self._on_thread(partial(self._name, file, half, digest))
        finally:
            await self._on_thread(partial(_discard, file, half))

    async def _open(self, digest: str) -> Blob | None:
        path = self._path(digest)
        try:
            size = (await self._on_thread(path.stat)).st_size
        except FileNotFoundError:
            return None

        async def read(start: int, length: int) -> AsyncIterator[bytes]:
            at, end = start, min(start + length, size)
            while at < end:
                wanted = min(CHUNK_BYTES, end - at)
                chunk = await self._on_thread(partial(_read, path, at, wanted))
                at += len(chunk)
                yield chunk

        return Blob(size=size, read=read)

    async def _delete(self, digest: str) -> None:
        await self._on_thread(lambda: self._path(digest).unlink(missing_ok=True))

    def _path(self, digest: str) -> Path:
        return self._names / digest[:2] / digest

    def _prepare(self) -> None:
        for folder in (self._names, self._halves):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for half in self._halves.iterdir():
            half.unlink()

    def _name(self, file: BinaryIO, half: Path, digest: str) -> None:
        """Make a written file durable and give it its name."""
        file.flush()
        os.fsync(file.fileno())
        path = self._path(digest)
        if not path.parent.exists():
            path.parent.mkdir(exist_ok=True, mode=0o700)
            _sync_folder(self._names)
        half.rename(path)
        _sync_folder(path.parent)

    async def _on_thread(self, call: Callable[[], R]) -> R:
        """Run a file call.

        When cancelled, wait for it, so that it never runs on alone.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait({future})
            raise
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnavailableError(f"the blob folder failed: {error}") from error


def _create(half: Path) -> BinaryIO:
    return half.open("xb")


def _read(path: Path, offset: int, length: int) -> bytes:
    """Read within a blob; opening it each time leaves nothing open to forget."""
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset)
    except FileNotFoundError as error:
        raise NotFoundError(
            f'blob "{path.name}" was deleted', kind="blobs", name=path.name
        ) from error
    if not data:
        raise ArtifactError(
            f"blob {path.name}: expected {length} bytes at {offset}, found its end"
        )
    return data


def _discard(file: BinaryIO, half: Path) -> None:
    file.close()
    half.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
