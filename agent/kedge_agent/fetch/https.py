# SPDX-License-Identifier: Apache-2.0
"""Artifacts from the control plane's blob store: HTTPS ranges over mutual TLS."""

from ssl import TLSVersion
from typing import Any, Final

import urllib3
from urllib3.exceptions import HTTPError

from kedge_agent.disk import Store
from kedge_agent.errors import CorruptArtifactError, NetworkError
from kedge_agent.fetch.base import Blob, Fetcher, Sink
from kedge_agent.settings import TlsFiles

CHUNK_BYTES: Final = 256 * 1024
"""Taken at a time at most; on a slow link, whatever has arrived counts."""

_OK: Final = 200
_PARTIAL: Final = 206
_RANGE_NOT_SATISFIABLE: Final = 416


class HttpsFetcher(Fetcher):
    """`GET <server>/blobs/sha256/<hex>`, from where an earlier try ended."""

    def __init__(
        self,
        store: Store,
        *,
        server: str,
        tls: TlsFiles,
        connect_s: float,
        read_s: float,
        **options: Any,
    ) -> None:
        super().__init__(store, **options)
        self._server = server.rstrip("/")
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=1,
            cert_reqs="CERT_REQUIRED",
            ca_certs=str(tls.ca),
            cert_file=str(tls.certificate),
            key_file=str(tls.key),
            ssl_minimum_version=TLSVersion.TLSv1_3,
            timeout=urllib3.Timeout(connect=connect_s, read=read_s),
            retries=False,
        )

    def close(self) -> None:
        super().close()
        self._pool.clear()

    def _fetch(self, blob: Blob, sink: Sink) -> None:
        headers = {"Accept-Encoding": "identity"}
        if sink.offset:
            headers["Range"] = f"bytes={sink.offset}-"
        try:
            response = self._pool.request(
                "GET",
                f"{self._server}/blobs/sha256/{blob.sha256}",
                headers=headers,
                preload_content=False,
                redirect=False,
            )
            try:
                self._accept(response, blob, sink)
                while chunk := response.read1(CHUNK_BYTES, decode_content=False):
                    sink.write(chunk)
            finally:
                # An unread rest must not reach the next request on this connection.
                response.close()
        except (HTTPError, OSError) as exc:
            raise NetworkError(
                f"blobs: expected {blob.sha256} from {self._server}, found {exc}",
                element=blob.sha256,
            ) from exc

    def _accept(
        self, response: urllib3.BaseHTTPResponse, blob: Blob, sink: Sink
    ) -> None:
        if response.status == _PARTIAL:
            found = response.headers.get("Content-Range", "")
            if not found.startswith(f"bytes {sink.offset}-"):
                raise NetworkError(
                    f"blobs: expected a range from {sink.offset} on, "
                    f"found {found!r:.80}",
                    element=blob.sha256,
                )
        elif response.status == _OK:
            sink.restart()
        elif response.status == _RANGE_NOT_SATISFIABLE:
            raise CorruptArtifactError(
                f"blobs: expected {blob.length} bytes, found no more than "
                f"{sink.offset}",
                element=blob.sha256,
            )
        else:
            raise NetworkError(
                f"blobs: expected {blob.sha256} from {self._server}, "
                f"found HTTP {response.status}",
                element=blob.sha256,
            )
        length = response.headers.get("Content-Length", "")
        rest = blob.length - sink.offset
        if length and length != str(rest):
            raise CorruptArtifactError(
                f"blobs: expected {rest} more bytes, found {length:.20} announced",
                element=blob.sha256,
            )
