# SPDX-License-Identifier: Apache-2.0
"""Artifacts over HTTP."""

import hashlib
from collections.abc import AsyncIterator

import httpx
import pytest

from kedge_controlplane.api.blobs import parse_range

DATA = bytes(range(256)) * 1200
DIGEST = hashlib.sha256(DATA).hexdigest()
PATH = f"https://kedge/blobs/sha256/{DIGEST}"


@pytest.fixture
async def blob(api: httpx.AsyncClient) -> None:
    answer = await api.put(PATH, content=DATA)
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"sha256": DIGEST, "length": len(DATA)}


@pytest.mark.usefixtures("blob")
async def test_a_blob_is_read_whole(api: httpx.AsyncClient) -> None:
    answer = await api.get(PATH)
    assert answer.status_code == 200
    assert answer.content == DATA
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"] == f'"{DIGEST}"'
    head = await api.head(PATH)
    assert head.headers["content-length"] == str(len(DATA))
    assert head.content == b""


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-", 100, len(DATA) - 1),
        ("bytes=-10", len(DATA) - 10, len(DATA) - 1),
        ("bytes=5-999999999", 5, len(DATA) - 1),
        ("bytes=-999999999", 0, len(DATA) - 1),
    ],
)
@pytest.mark.usefixtures("blob")
async def test_a_range_is_partial_content(
    api: httpx.AsyncClient, header: str, start: int, end: int
) -> None:
    answer = await api.get(PATH, headers={"range": header})
    assert answer.status_code == 206
    assert answer.content == DATA[start : end + 1]
    assert answer.headers["content-range"] == f"bytes {start}-{end}/{len(DATA)}"
    assert answer.headers["content-length"] == str(end - start + 1)


@pytest.mark.parametrize("header", [f"bytes={len(DATA)}-", "bytes=-0"])
@pytest.mark.usefixtures("blob")
async def test_a_range_outside_is_not_satisfiable(
    api: httpx.AsyncClient, header: str
) -> None:
    answer = await api.get(PATH, headers={"range": header})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize("header", ["lines=1-2", "bytes=5-3", "bytes=0-1,4-5", "x"])
@pytest.mark.usefixtures("blob")
async def test_a_range_that_cannot_be_read_is_the_whole(
    api: httpx.AsyncClient, header: str
) -> None:
    answer = await api.get(PATH, headers={"range": header})
    assert answer.status_code == 200
    assert answer.content == DATA


@pytest.mark.usefixtures("blob")
async def test_a_range_of_other_bytes_is_the_whole(api: httpx.AsyncClient) -> None:
    headers = {"range": "bytes=0-1", "if-range": '"other"'}
    assert (await api.get(PATH, headers=headers)).status_code == 200
    headers["if-range"] = f'"{DIGEST}"'
    assert (await api.get(PATH, headers=headers)).status_code == 206


def test_an_empty_blob_has_no_ranges() -> None:
    for header in ("bytes=0-", "bytes=-5"):
        found = parse_range(header)
        assert found is not None
        assert found.within(0) is None


async def test_an_upload_of_other_bytes_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.put(PATH, content=DATA[1:])
    assert answer.status_code == 400
    assert f"expected sha256 {DIGEST}" in answer.json()["message"]
    assert (await api.head(PATH)).status_code == 404


async def test_an_upload_must_say_its_length(api: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield DATA

    answer = await api.put(PATH, content=chunks())
    assert answer.status_code == 400
    assert "Content-Length" in answer.json()["message"]


async def test_an_upload_over_the_limit_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.put(PATH, content=b"x" * 1_000_001)
    assert answer.status_code == 413


async def test_a_name_that_is_no_digest_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.get("https://kedge/blobs/sha256/nothing")
    assert answer.status_code == 400
    answer = await api.get("https://kedge/blobs/sha256/..%2f..%2fetc")
    assert answer.status_code in (400, 404)
