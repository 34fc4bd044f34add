# SPDX-License-Identifier: Apache-2.0
"""The seam of blob stores: bytes named by their SHA-256, written once, read by range.

Not promised: that two writers of one digest share work (both write, the result is the
same), and that a blob survives `delete` for readers who opened it before. Promised: a
blob that can be opened has exactly the bytes of its name; an interrupted `put` leaves
nothing to open.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

from kedge_controlplane.errors import (
    ArtifactError,
    BadRequestError,
    NotFoundError,
    TooLargeError,
)

MAX_BLOB_BYTES: Final = 4 * 1024**3  # models stay outside of a guest's 4 GiB
CHUNK_BYTES: Final = 256 * 1024

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class RangeReader(Protocol):
    """Reads part of one blob, from `start`, `length` bytes, in chunks."""

    def __call__(self, start: int, length: int) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """An existing blob."""

    size: int
    read: RangeReader


class BlobStore(ABC):
    """Subclasses fill the hooks; names, lengths and digests are checked here."""

    def __init__(self, *, max_blob_bytes: int = MAX_BLOB_BYTES) -> None:
        self._max_blob_bytes = max_blob_bytes

    async def put(
        self, digest: str, chunks: AsyncIterable[bytes], *, length: int
    ) -> None:
        """Store a blob; it appears whole or not at all.

        Raises:
            ArtifactError: the bytes have another digest or length.
            TooLargeError: `length` is over the limit.
        """
        check_digest(digest)
        if not 0 <= length <= self._max_blob_bytes:
            raise TooLargeError(
                f"blob: expected at most {self._max_blob_bytes} bytes, found {length}"
            )
        await self._put(digest, _verified(chunks, digest=digest, length=length))

    async def open(self, digest: str) -> Blob:
        """Return a blob's size and reader; raises NotFoundError."""
        blob = await self._open(check_digest(digest))
        if blob is None:
            raise NotFoundError(f'blob "{digest}" not found', kind="blobs", name=digest)
        return blob

    async def stat(self, digest: str) -> int | None:
        """Return a blob's size, None where there is none."""
        blob = await self._open(check_digest(digest))
        return None if blob is None else blob.size

    async def delete(self, digest: str) -> None:
        """Forget a blob, if there is one."""
        await self._delete(check_digest(digest))

    @abstractmethod
    async def _put(self, digest: str, chunks: AsyncIterator[bytes]) -> None:
        """Write the chunks; if they raise, leave no trace and let it through."""

    @abstractmethod
    async def _open(self, digest: str) -> Blob | None: ...

    @abstractmethod
    async def _delete(self, digest: str) -> None: ...


def check_digest(digest: str) -> str:
    """Return the digest; raises BadRequestError unless it is 64 hexadecimal digits."""
    if not _DIGEST.fullmatch(digest):
        raise BadRequestError(
            f"digest: expected 64 lower-case hexadecimal digits, found {digest!r:.80}"
        )
    return digest


async def _verified(
    chunks: AsyncIterable[bytes], *, digest: str, length: int
) -> AsyncIterator[bytes]:
    """Pass the chunks on; raise ArtifactError at the end unless they were right."""
    seen, state = 0, hashlib.sha256()
    async for chunk in chunks:
        seen += len(chunk)
        if seen > length:
            break
        state.update(chunk)
        yield chunk
    if seen != length:
        found = f"more than {length}" if seen > length else str(seen)
        raise ArtifactError(f"blob {digest}: expected {length} bytes, found {found}")
    if state.hexdigest() != digest:
        raise ArtifactError(
            f"blob: expected sha256 {digest}, found {state.hexdigest()}"
        )
