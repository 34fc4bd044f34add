# SPDX-License-Identifier: Apache-2.0
"""The HTTP protocol on a real listener: paths, statuses, limits and draining."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from kedge_agent.inference.onnx import OnnxBackend
from kedge_agent.serving import http_server
from kedge_agent.serving.catalogue import MemoryCatalogue
from kedge_agent.serving.http import HttpApp
from kedge_agent.serving.http_server import serve_http
from kedge_agent.serving.oip import Limits
from kedge_agent.serving.service import SERVER_VERSION, InferenceService
from tests.simulators.onnx_models import affine
from tests.simulators.served import OddModel, ThreadedModel

LIMITS = Limits(
    body_bytes=10_000,
    json_bytes=10_000,
    buffered_bytes=15_000,
    in_flight=2,
    timeout_s=5,
)
INPUT = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}


class Served:
    """A served catalogue with the parts that tests reach for."""

    def __init__(self, port: int, stuck: OddModel) -> None:
        self.port = port
        self.stuck = stuck

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=10)


@asynccontextmanager
async def serving(limits: Limits = LIMITS) -> AsyncIterator[Served]:
    models = [ThreadedModel(name="affine", version=v, model=load()) for v in ("1", "2")]
    stuck = OddModel("stuck")
    catalogue = MemoryCatalogue([*models, stuck])
    for name in ("loading", "busy", "broken", "odd-output"):
        catalogue.add(OddModel(name))
    service = InferenceService(catalogue, limits=limits)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with serve_http(HttpApp(service), sockets=[listener], drain_s=5):
        yield Served(port, stuck)
    for model in models:
        model.close()


def load() -> Any:
    return OnnxBackend().load(affine())


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as it:
        yield it


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with served.client() as it:
        yield it


async def test_server_says_what_it_is(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v2")
    assert answer.json() == {
        "name": "kedge",
        "version": SERVER_VERSION,
        "extensions": ["binary_tensor_data"],
    }
    assert answer.headers["content-type"] == "application/json"
    assert "server" not in answer.headers


async def test_live_while_not_every_model_is_ready(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    answer = await client.get("/v2/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})


async def test_model_says_what_it_takes(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v2/models/affine/versions/1")
    assert answer.json() == {
        "name": "affine",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }
    assert (await client.get("/v2/models/affine")).json()["versions"] == ["2"]


async def test_model_says_whether_it_is_ready(client: httpx.AsyncClient) -> None:
    for name, status in (("affine", 200), ("loading", 503), ("absent", 404)):
        answer = await client.get(f"/v2/models/{name}/ready")
        assert answer.status_code == status


async def test_infer_answers(client: httpx.AsyncClient) -> None:
    for path, version in (("affine", "2"), ("affine/versions/1", "1")):
        answer = await client.post(
            f"/v2/models/{path}/infer",
            json={"inputs": [INPUT], "id": "7", "parameters": {"k": 1}},
        )
        assert answer.json() == {
            "model_name": "affine",
            "model_version": version,
            "id": "7",
            "parameters": {"k": "1"},
            "outputs": [
                {"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [3, 5, 7, 9]}
            ],
        }


async def test_infer_in_binary(client: httpx.AsyncClient) -> None:
    x = np.array([[1, 2, 3, 4]], dtype=np.float32)
    tensor = {key: INPUT[key] for key in ("name", "datatype", "shape")}
    head = orjson.dumps(
        {
            "inputs": [tensor | {"parameters": {"binary_data_size": 16}}],
            "parameters": {"binary_data_output": True},
        }
    )
    answer = await client.post(
        "/v2/models/affine/infer",
        content=head + x.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    end = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    (output,) = orjson.loads(answer.content[:end])["outputs"]
    assert output["parameters"] == {"binary_data_size": 16}
    got = np.frombuffer(answer.content[end:], dtype=np.float32)
    assert got.tolist() == [3, 5, 7, 9]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/", 404, "path '/': not found"),
        ("GET", "/v2/", 404, "not found"),
        ("GET", "/v1/models/affine", 404, "not found"),
        ("GET", "/v2/models", 404, "not found"),
        ("GET", "/v2/models/affine/versions", 404, "not found"),
        ("GET", "/v2/models/affine/config", 404, "not found"),
        ("GET", "/v2/models/absent", 404, "model absent: not found"),
        ("GET", "/v2/models/affine/versions/3", 404, "expected version 1, 2, found 3"),
        ("GET", "/v2/health/dead", 404, "not found"),
        ("GET", "/v2/models/a%2Fb", 404, "not found"),
        ("GET", "/v2/models/%ff", 404, "not found"),
        ("POST", "/v2/models/absent/infer", 404, "model absent: not found"),
        ("GET", "/v2/models/affine/infer", 405, "expected POST, found GET"),
        ("POST", "/v2/models/affine", 405, "expected GET, found POST"),
        ("DELETE", "/v2/health/live", 405, "expected GET, found DELETE"),
        ("POST", "/v2/models/loading/infer", 503, "not ready"),
        ("POST", "/v2/models/busy/infer", 429, "expected room"),
        ("POST", "/v2/models/broken/infer", 500, "internal error"),
        ("POST", "/v2/models/odd-output/infer", 500, "found complex64"),
        ("POST", "/v2/models/affine/infer", 400, r"expected x FP32[?,4]"),
    ],
)
async def test_refusals_say_why(
    client: httpx.AsyncClient, method: str, path: str, status: int, message: str
) -> None:
    answer = await client.request(method, path, content=orjson.dumps(ONE))
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert "secret" not in answer.text
    assert ("allow" in answer.headers) == (status == 405)
    assert ("retry-after" in answer.headers) == (status in (429, 503))


async def test_head_answers_like_get_without_a_body(client: httpx.AsyncClient) -> None:
    answer = await client.head("/v2/health/live")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({"Inference-Header-Content-Length": "-1"}, 400, "a number of bytes"),
        ({"Inference-Header-Content-Length": "9" * 19}, 400, "a number of bytes"),
        ({"Inference-Header-Content-Length": "100000"}, 400, "expected at most the"),
        ({"Content-Encoding": "gzip"}, 400, "no Content-Encoding"),
    ],
)
async def test_headers_that_are_wrong_are_refused(
    client: httpx.AsyncClient, headers: dict[str, str], status: int, message: str
) -> None:
    answer = await client.post("/v2/models/affine/infer", json=ONE, headers=headers)
    assert answer.status_code == status
    assert message in answer.json()["error"]


async def test_declared_body_over_the_limit_is_refused_unread(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head(length=10_001))
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"expected at most 10000 bytes, found 10001" in answer
    writer.close()
    await writer.wait_closed()


def head(*, length: int | None, model: str = "affine") -> bytes:
    framing = "Transfer-Encoding: chunked"
    if length is not None:
        framing = f"Content-Length: {length}"
    path = f"/v2/models/{model}/infer"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode()


async def test_body_without_declared_length_is_cut_off_at_the_limit(
    served: Served,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head(length=None) + b"2711\r\n" + b" " * 10_001)
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 413 ")
    writer.close()
    await writer.wait_closed()


async def test_bodies_under_way_are_bounded_together(served: Served) -> None:
    (_, first), (reader, second) = [
        await asyncio.open_connection("127.0.0.1", served.port) for _ in range(2)
    ]
    first.write(head(length=9_500, model="stuck") + body(9_500))
    await served.stuck.asked.wait()
    second.write(head(length=9_500) + body(9_500))
    assert (await reader.readline()).startswith(b"HTTP/1.1 429 ")
    served.stuck.release.set()
    for writer in (first, second):
        writer.close()
        await writer.wait_closed()


def body(length: int) -> bytes:
    """Make a request of `length` bytes for a model of one number."""
    text = orjson.dumps(ONE)
    return text + b" " * (length - len(text))


async def test_body_that_does_not_arrive_is_given_up() -> None:
    async with serving(Limits(timeout_s=0.05)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(head(length=100) + b"{")
        assert (await reader.readline()).startswith(b"HTTP/1.1 504 ")
        writer.close()
        await writer.wait_closed()


async def test_client_that_leaves_within_its_body_frees_its_place(
    served: Served, client: httpx.AsyncClient
) -> None:
    for _ in range(LIMITS.in_flight * 3):
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(head(length=9_000) + b" " * 8_000)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await client.get("/v2/health/live")
    await free(client)


async def free(client: httpx.AsyncClient) -> None:
    """Wait until an inference is admitted; the server notices closed sockets late."""
    async with asyncio.timeout(5):
        while True:
            answer = await client.post(
                "/v2/models/affine/infer", json={"inputs": [INPUT]}
            )
            if answer.status_code == 200:
                return


async def test_requests_beyond_the_bound_are_told_to_come_back(
    served: Served, client: httpx.AsyncClient
) -> None:
    async with asyncio.TaskGroup() as tasks:
        held = [
            tasks.create_task(client.post("/v2/models/stuck/infer", json=ONE))
            for _ in range(LIMITS.in_flight)
        ]
        await served.stuck.asked.wait()
        answer = await client.post("/v2/models/stuck/infer", json=ONE)
        while answer.status_code != 429:
            answer = await client.post("/v2/models/affine/infer", json=ONE)
        assert answer.headers["retry-after"] == "1"
        assert (await client.get("/v2/health/live")).status_code == 200
        served.stuck.release.set()
    assert [task.result().status_code for task in held] == [200] * len(held)


async def test_model_that_does_not_answer_is_given_up() -> None:
    async with serving(Limits(timeout_s=0.05)) as served, served.client() as client:
        answer = await client.post("/v2/models/stuck/infer", json=ONE)
        assert answer.status_code == 504
        assert (
            answer.json()["error"] == "model stuck: expected an answer within 0.050 s"
        )


async def test_leaving_answers_what_is_under_way() -> None:
    async with asyncio.TaskGroup() as tasks:
        async with serving() as served:
            client = served.client()
            held = tasks.create_task(client.post("/v2/models/stuck/infer", json=ONE))
            await served.stuck.asked.wait()
            asyncio.get_running_loop().call_later(0.05, served.stuck.release.set)
        assert (await held).status_code == 200
        with pytest.raises(httpx.ConnectError):
            await client.get("/v2/health/live")
        await client.aclose()


async def test_head_without_end_is_refused(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET /v2 HTTP/1.1\r\nX: " + b"a" * http_server.MAX_HEAD_BYTES)
    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "start",
    [b"", b"\r\n", b"GET /v2 HTT", b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\nGET"],
    ids=["nothing", "blank line", "half a head", "half a second head"],
)
async def test_connection_that_says_nothing_is_closed(
    monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(http_server, "IDLE_S", 0.05)
    async with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(start)
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()


async def test_slow_answer_is_not_taken_for_an_idle_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "IDLE_S", 0.02)
    async with serving() as served, served.client() as client:
        asyncio.get_running_loop().call_later(0.2, served.stuck.release.set)
        answer = await client.post("/v2/models/stuck/infer", json=ONE)
        assert answer.status_code == 200


def test_a_server_is_ready_once_it_has_models_and_all_are() -> None:
    catalogue = MemoryCatalogue()
    service = InferenceService(catalogue)
    assert not service.ready()
    catalogue.add(OddModel("stuck"))
    assert service.ready()
    catalogue.add(OddModel("loading"))
    assert not service.ready()
