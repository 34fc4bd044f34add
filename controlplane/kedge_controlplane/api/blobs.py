# SPDX-License-Identifier: Apache-2.0
"""Artifacts over HTTP: operators put them, operators and devices read ranges of them.

Nothing is ever more than a chunk in memory. An upload that stops half way leaves
nothing.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from kedge_controlplane.api.answers import JsonResponse
from kedge_controlplane.blobs.base import BlobStore
from kedge_controlplane.errors import BadRequestError

CHUNK_TIMEOUT_S: Final = 60.0

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class BlobApi:
    """Handlers of /blobs/sha256/<digest>."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def put(self, request: Request) -> Response:
        """Store a blob; putting what is there already does no harm."""
        digest = request.path_params["digest"]
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal()):
            raise BadRequestError(
                f"Content-Length: expected the blob's bytes, found {length!r:.40}"
            )
        await self._blobs.put(digest, _chunks(request), length=int(length))
        return JsonResponse({"sha256": digest, "length": int(length)}, 201)

    async def get(self, request: Request) -> Response:
        """Answer a blob, one range of it, or with HEAD only its size."""
        digest = request.path_params["digest"]
        blob = await self._blobs.open(digest)
        headers = {
            "accept-ranges": "bytes",
            "cache-control": "private, max-age=31536000, immutable",
            "content-type": "application/octet-stream",
            "etag": f'"{digest}"',
        }
        wanted = _wanted_range(request, digest)
        if wanted is None:
            start, length, code = 0, blob.size, 200
        else:
            found = wanted.within(blob.size)
            if found is None:
                headers["content-range"] = f"bytes */{blob.size}"
                return Response(status_code=416, headers=headers)
            (start, length), code = found, 206
            end = start + length - 1
            headers["content-range"] = f"bytes {start}-{end}/{blob.size}"
        headers["content-length"] = str(length)
        if request.method == "HEAD":
            return Response(status_code=code, headers=headers)
        return StreamingResponse(
            blob.read(start, length), status_code=code, headers=headers
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """One range as asked for: from `first` to `last`, or the `last` bytes."""

    first: int | None
    last: int | None

    def within(self, size: int) -> tuple[int, int] | None:
        """Return start and length in a blob of `size`; None: nothing of it is there."""
        if self.first is None:
            start, end = max(0, size - (self.last or 0)), size
        else:
            start = self.first
            end = size if self.last is None else min(size, self.last + 1)
        return (start, end - start) if start < end else None


def parse_range(header: str) -> ByteRange | None:
    """Read a Range header; None stands for the whole blob.

    So do several ranges and a header that makes no sense: HTTP has it so, and every
    client understands the answer.
    """
    match = _RANGE.fullmatch(header)
    if match is None:
        return None
    first, last = (int(part) if part else None for part in match.groups())
    if first is None and last is None:
        return None
    if first is not None and last is not None and last < first:
        return None
    return ByteRange(first=first, last=last)


def _wanted_range(request: Request, digest: str) -> ByteRange | None:
    """Return the range asked for, where it was asked for these very bytes."""
    condition = request.headers.get("if-range")
    if condition is not None and condition != f'"{digest}"':
        return None
    return parse_range(request.headers.get("range", ""))


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body; a client that stalls or goes away is an error."""
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(CHUNK_TIMEOUT_S):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise BadRequestError(
                f"expected the next bytes within {CHUNK_TIMEOUT_S:g} s"
            ) from error
        except ClientDisconnect as error:
            raise BadRequestError("the connection ended within the blob") from error
        if chunk is None:
            return
        yield chunk
