# SPDX-License-Identifier: Apache-2.0
"""The seam between the disk and whatever artifacts come from.

`fetch` is closed: it reuses what is there, resumes what was begun, retries, and
verifies. An implementation only moves bytes. It promises neither speed nor that the
bytes are the right ones; the digest decides. One thread does the moving, one artifact
at a time, so a download that was cancelled has ended before the next one touches the
same file.
"""

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

from kedge_agent.backoff import Backoff
from kedge_agent.disk import Download, Store
from kedge_agent.errors import CorruptArtifactError, NetworkError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS: Final = 5
"""Tries in a row that brought no byte; one that brought some starts the count again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """What to fetch."""

    sha256: str
    length: int  # bytes


class Sink:
    """Where an implementation puts bytes, in order, from `offset` on."""

    def __init__(self, download: Download, cancelled: threading.Event) -> None:
        self._download, self._cancelled = download, cancelled

    @property
    def offset(self) -> int:
        return self._download.offset

    def restart(self) -> None:
        """Begin again at zero, where the source cannot send a part."""
        self._download.restart()

    def write(self, chunk: bytes) -> None:
        """Append.

        Raises:
            CorruptArtifactError: More than the signed length.
            DiskFullError: No space.
            NetworkError: Nobody wants the artifact any more.
        """
        if self._cancelled.is_set():
            raise NetworkError("fetch: expected to be wanted, found it cancelled")
        self._download.write(chunk)


class Fetcher(ABC):
    """Brings artifacts to the store."""

    def __init__(
        self,
        store: Store,
        *,
        backoff: Callable[[], Backoff] = lambda: Backoff(first_s=0.5, longest_s=10.0),
    ) -> None:
        self._store, self._backoff = store, backoff
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kedge-fetch")

    async def fetch(self, blob: Blob) -> None:
        """Make sure that the store holds `blob`.

        Cancelling it keeps what has arrived for the next try.

        Raises:
            NetworkError: It did not arrive in the tries we have.
            CorruptArtifactError: Something else arrived.
            DiskFullError: There is no room for it.
            StateError: The disk refuses.
        """
        cancelled = threading.Event()
        waits, misses = self._backoff(), 0
        try:
            while True:
                before = await self._on_thread(self._store.resumable, blob.sha256)
                try:
                    await self._on_thread(self._bring, blob, cancelled)
                except NetworkError:
                    found = await self._on_thread(self._store.resumable, blob.sha256)
                    misses = 1 if found > before else misses + 1
                    if misses >= ATTEMPTS:
                        raise
                    await asyncio.sleep(waits.next_s())
                else:
                    return
        finally:
            cancelled.set()

    def close(self) -> None:
        """End the thread; a transfer in progress ends with its next chunk."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _on_thread(
        self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await asyncio.wrap_future(self._thread.submit(work, *args, **kwargs))

    def _bring(self, blob: Blob, cancelled: threading.Event) -> None:
        if self._store.holds(blob.sha256, length=blob.length):
            return
        download = self._store.download(blob.sha256, length=blob.length)
        if download.offset:
            try:
                self._complete(blob, download, cancelled)
            except CorruptArtifactError as exc:
                # Bytes of an earlier life were not synced: a power cut may have torn
                # them. That is not the source's fault, so it gets one fresh try.
                logger.warning("fetch.torn: %s", exc)
                download.restart()
            else:
                return
        self._complete(blob, download, cancelled)

    def _complete(
        self, blob: Blob, download: Download, cancelled: threading.Event
    ) -> None:
        if download.offset < blob.length:
            self._fetch(blob, Sink(download, cancelled))
        if download.offset < blob.length:
            raise NetworkError(
                f"fetch: expected {blob.length} bytes, found the end after "
                f"{download.offset}",
                element=blob.sha256,
            )
        download.finish()

    @abstractmethod
    def _fetch(self, blob: Blob, sink: Sink) -> None:
        """Write the bytes of `blob` from `sink.offset` on, on the fetcher's thread.

        Raises:
            NetworkError: Anything that may be better next time.
        """
