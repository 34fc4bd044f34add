# SPDX-License-Identifier: Apache-2.0
"""Blobs in memory: for tests and trials; gone with the process."""

from collections.abc import AsyncIterator

from kedge_controlplane.blobs.base import (
    CHUNK_BYTES,
    MAX_BLOB_BYTES,
    Blob,
    BlobStore,
)


class MemoryBlobs(BlobStore):
    """A dictionary."""

    def __init__(self, *, max_blob_bytes: int = MAX_BLOB_BYTES) -> None:
        super().__init__(max_blob_bytes=max_blob_bytes)
        self._blobs: dict[str, bytes] = {}

    async def _put(self, digest: str, chunks: AsyncIterator[bytes]) -> None:
        self._blobs[digest] = b"".join([chunk async for chunk in chunks])

    async def _open(self, digest: str) -> Blob | None:
        data = self._blobs.get(digest)
        if data is None:
            return None

        async def read(start: int, length: int) -> AsyncIterator[bytes]:
            end = min(start + length, len(data))
            for at in range(start, end, CHUNK_BYTES):
                yield data[at : min(at + CHUNK_BYTES, end)]

        return Blob(size=len(data), read=read)

    async def _delete(self, digest: str) -> None:
        self._blobs.pop(digest, None)
