# SPDX-License-Identifier: Apache-2.0
"""Artifacts that are in memory already: for simulations, and tests of what fetches."""

from collections.abc import Mapping
from typing import Any, Final

from kedge_agent.disk import Store
from kedge_agent.errors import NetworkError
from kedge_agent.fetch.base import Blob, Fetcher, Sink

CHUNK_BYTES: Final = 64 * 1024


class MemoryFetcher(Fetcher):
    """Serves `blobs`, by digest."""

    def __init__(
        self, store: Store, blobs: Mapping[str, bytes], **options: Any
    ) -> None:
        super().__init__(store, **options)
        self._blobs = blobs

    def _fetch(self, blob: Blob, sink: Sink) -> None:
        data = self._blobs.get(blob.sha256)
        if data is None:
            raise NetworkError(
                f"memory: expected {blob.sha256}, found nothing", element=blob.sha256
            )
        for start in range(sink.offset, len(data), CHUNK_BYTES):
            sink.write(data[start : start + CHUNK_BYTES])
