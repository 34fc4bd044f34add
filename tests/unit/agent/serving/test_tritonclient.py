# SPDX-License-Identifier: Apache-2.0
"""The protocol's reference client, unmodified, against both protocols.

The server is another process: tritonclient and `kedge_wire.oip` register the same
protobuf package, and one process holds only one of them.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from kedge_agent.inference.datatypes import DTYPES
from kedge_agent.serving.service import SERVER_VERSION

SERVER = [sys.executable, "-W", "error", "-m", "tests.simulators.oip_server"]
CALLERS = 16


class Client:
    """One of the reference clients, and the form in which it sends tensors."""

    def __init__(self, form: str, ports: dict[str, int]) -> None:
        self.form = form
        if form == "grpc":
            url = f"127.0.0.1:{ports['grpc']}"
            self.module: Any = triton_grpc
            self.options: dict[str, bool] = {}
        else:
            url = f"127.0.0.1:{ports['http']}"
            self.module = triton_http
            self.options = {"binary_data": form == "binary"}
        self.client: Any = self.module.InferenceServerClient(url)

    def close(self) -> None:
        self.client.close()

    def infer(
        self,
        model: str,
        arrays: dict[str, np.ndarray],
        outputs: Sequence[str],
        **options: Any,
    ) -> Any:
        inputs = []
        for name, array in arrays.items():
            datatype = np_to_triton_dtype(array.dtype)
            tensor = self.module.InferInput(name, array.shape, datatype)
            tensor.set_data_from_numpy(array, **self.options)
            inputs.append(tensor)
        wanted = [
            self.module.InferRequestedOutput(name, **self.options) for name in outputs
        ]
        return self.client.infer(model, inputs, outputs=wanted or None, **options)

    def answer(self, result: Any) -> dict[str, Any]:
        if self.form == "grpc":
            response = result.get_response(as_json=True)
            return {"id": "", **response}
        return dict(result.get_response())


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    with subprocess.Popen(
        SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.fixture(params=["json", "binary", "grpc"])
def client(request: pytest.FixtureRequest, ports: dict[str, int]) -> Iterator[Client]:
    with closing(Client(request.param, ports)) as made:
        yield made


@pytest.fixture
def stub(ports: dict[str, int]) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def numbers(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array([values], dtype=np.float32)}


def everything() -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, dtype in DTYPES.items():
        values: list[Any] = [1, 0]
        if name == "BYTES":
            values = ["käse".encode(), b""]
        elif dtype.kind in "iu":
            values = [np.iinfo(dtype).min, np.iinfo(dtype).max]
        arrays[f"in_{name}"] = np.array([values], dtype=dtype)
    return arrays


def test_server_is_live_and_says_what_it_is(client: Client) -> None:
    assert client.client.is_server_live()
    assert not client.client.is_server_ready()
    metadata = client.client.get_server_metadata()
    if client.form == "grpc":
        assert (metadata.name, metadata.version) == ("kedge", SERVER_VERSION)
    else:
        assert (metadata["name"], metadata["version"]) == ("kedge", SERVER_VERSION)


def test_models_say_whether_they_are_ready(client: Client) -> None:
    assert client.client.is_model_ready("affine")
    assert client.client.is_model_ready("affine", "1")
    assert not client.client.is_model_ready("loading")


def test_model_says_what_it_takes(client: Client) -> None:
    if client.form == "grpc":
        metadata = client.client.get_model_metadata("affine", as_json=True)
        shape: list[Any] = ["-1", "4"]
    else:
        metadata = client.client.get_model_metadata("affine")
        shape = [-1, 4]
    assert metadata == {
        "name": "affine",
        "versions": ["2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": shape}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": shape}],
    }


@pytest.mark.parametrize("outputs", [["y"], []], ids=["asked for", "all"])
def test_infer_answers(client: Client, outputs: list[str]) -> None:
    result = client.infer("affine", numbers(1, 2, 3, 4), outputs)
    assert result.as_numpy("y").tolist() == [[3, 5, 7, 9]]


def test_id_version_and_parameters_come_back(client: Client) -> None:
    result = client.infer(
        "affine",
        numbers(1, 2, 3, 4),
        ["y"],
        model_version="1",
        request_id="7",
        parameters={"key": "value", "count": 3, "flag": True},
    )
    answer = client.answer(result)
    assert answer["model_name"] == "affine"
    assert answer["model_version"] == "1"
    assert answer["id"] == "7"
    parameters = answer["parameters"]
    if client.form == "grpc":
        parameters = {n: p["string_param"] for n, p in parameters.items()}
    assert parameters == {"key": "value", "count": "3", "flag": "true"}


def test_every_datatype_comes_back_as_it_went(client: Client) -> None:
    arrays = everything()
    names = [name.replace("in_", "out_") for name in arrays]
    result = client.infer("echo", arrays, names)
    for name, array in arrays.items():
        back = result.as_numpy(name.replace("in_", "out_"))
        values = [e.encode() if isinstance(e, str) else e for e in back.flat]
        assert values == list(array.flat), name


def test_outputs_come_in_the_order_asked_for(client: Client) -> None:
    wanted = ["out_INT8", "out_BOOL"]
    answer = client.answer(client.infer("echo", everything(), wanted))
    assert [output["name"] for output in answer["outputs"]] == wanted


def test_many_callers_get_the_answers_to_their_own_inputs(
    client: Client, ports: dict[str, int]
) -> None:
    def call(first: int) -> list[list[float]]:
        # The HTTP client belongs to one thread.
        with closing(Client(client.form, ports)) as own:
            asked = range(first, first + 20)
            results = [own.infer("affine", numbers(n, -n, 0, 1), ["y"]) for n in asked]
            return [result.as_numpy("y")[0].tolist() for result in results]

    firsts = range(0, CALLERS * 20, 20)
    with ThreadPoolExecutor(CALLERS) as threads:
        answers = [row for rows in threads.map(call, firsts) for row in rows]
    assert answers == [[2 * n + 1, 1 - 2 * n, 1, 3] for n in range(CALLERS * 20)]


REFUSED = {
    "absent": ("NOT_FOUND", "404", "model absent: not found"),
    "loading": ("UNAVAILABLE", "503", "not ready"),
    "busy": ("RESOURCE_EXHAUSTED", "429", "expected room"),
    "broken": ("INTERNAL", "500", "internal error"),
    "odd-output": ("INTERNAL", "500", "found complex64"),
    "gather": ("INVALID_ARGUMENT", "400", "inputs: expected index, found x"),
}


@pytest.mark.parametrize("model", REFUSED)
def test_refusals_have_a_status_and_say_why(client: Client, model: str) -> None:
    code, status, message = REFUSED[model]
    arrays = {"x": np.ones(1, dtype=np.float32)}
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, arrays, [])
    found = caught.value.status()
    assert found == (f"StatusCode.{code}" if client.form == "grpc" else status)
    assert message in caught.value.message()


def test_output_that_the_model_lacks_is_refused(client: Client) -> None:
    with pytest.raises(InferenceServerException, match=r"some of y, found 'z'"):
        client.infer("affine", numbers(1, 2, 3, 4), ["z"])


def test_callers_deadline_ends_the_call(ports: dict[str, int]) -> None:
    arrays = {"x": np.ones(1, dtype=np.float32)}
    with (
        closing(Client("grpc", ports)) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.infer("stuck", arrays, [], client_timeout=0.05)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def request(**members: Any) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
    tensor |= members.pop("tensor", {})
    inputs = members.pop("inputs", [tensor])
    return service_pb2.ModelInferRequest(model_name="affine", inputs=inputs, **members)


def contents(**fields: list[Any]) -> dict[str, Any]:
    return {"contents": fields}


FOUR = contents(fp32_contents=[1, 2, 3, 4])
MALFORMED: dict[str, tuple[Any, str]] = {
    "no data": (request(), "expected 4 elements .* found 0"),
    "no inputs": (request(inputs=[]), "inputs: expected x, found none"),
    "too many inputs": (
        request(inputs=[{"name": str(n)} for n in range(257)]),
        "inputs: expected at most 256 tensors, found 257",
    ),
    "no name": (request(tensor={"name": ""}), "a name of its own"),
    "one name twice": (
        request(inputs=[{"name": "x", "datatype": "FP32", "shape": [0]}] * 2),
        "a name of its own",
    ),
    "no datatype": (request(tensor={"datatype": ""}), "tensor x: expected a datatype"),
    "endless name": (
        request(tensor={"name": "n" * 100_000, "shape": [-1]}),
        "tensor nnn",
    ),
    "negative shape": (request(tensor={"shape": [-1]}), "tensor x: .* found -1"),
    "shape beyond memory": (
        request(tensor={"shape": [2**62, 4]}),
        "tensor x: expected at most",
    ),
    "many elements one by one": (
        request(tensor={"shape": [2**22]}),
        "send large tensors of numbers raw",
    ),
    "wrong contents": (
        request(tensor=contents(int_contents=[1, 2, 3, 4])),
        "expected 4 elements .* found 0",
    ),
    "too few contents": (
        request(tensor=contents(fp32_contents=[1])),
        "expected 4 elements .* found 1",
    ),
    "beyond INT8": (
        request(
            tensor={"datatype": "INT8", "shape": [1]} | contents(int_contents=[128])
        ),
        "range of INT8",
    ),
    "FP16 typed": (
        request(tensor={"datatype": "FP16"} | FOUR),
        "expected FP16 in raw_input_contents",
    ),
    "raw for some": (
        request(inputs=[{"name": "x"}, {"name": "y"}], raw_input_contents=[b""]),
        "raw_input_contents: expected 2, .* found 1",
    ),
    "raw and typed": (
        request(tensor=FOUR, raw_input_contents=[bytes(16)]),
        "tensor x: .* found both",
    ),
    "raw too short": (
        request(raw_input_contents=[bytes(15)]),
        "tensor x: expected 16 bytes .* found 15",
    ),
    "many parameters": (
        request(
            parameters={str(n): {"int64_param": n} for n in range(65)},
            raw_input_contents=[bytes(16)],
        ),
        "parameters: expected at most 64, found 65",
    ),
    "an output twice": (
        request(outputs=[{"name": "y"}] * 2, raw_input_contents=[bytes(16)]),
        "outputs: expected each once",
    ),
    "classification": (
        request(
            outputs=[{"name": "y", "parameters": {"classification": {}}}],
            raw_input_contents=[bytes(16)],
        ),
        "classification: not provided",
    ),
}


@pytest.mark.parametrize(("message", "why"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_message_is_refused(stub: Any, message: Any, why: str) -> None:
    with pytest.raises(grpc.RpcError, match=why) as caught:
        stub.ModelInfer(message, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_message_over_the_limit_is_refused(stub: Any) -> None:
    with pytest.raises(grpc.RpcError, match="larger than max") as caught:
        stub.ModelInfer(
            request(raw_input_contents=[bytes(16 * 1024 * 1024)]), timeout=10
        )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def test_typed_contents_are_read(stub: Any) -> None:
    arrays = everything()
    del arrays["in_FP16"]
    inputs = [
        {
            "name": f"in_{datatype}",
            "datatype": datatype,
            "shape": [1, 2],
            "contents": {field: arrays[f"in_{datatype}"].ravel().tolist()},
        }
        for datatype, field in TYPED.items()
    ]
    message = service_pb2.ModelInferRequest(model_name="typed", inputs=inputs)
    response = stub.ModelInfer(message, timeout=10)
    result = triton_grpc.InferResult(response)
    for name, array in arrays.items():
        back = result.as_numpy(name.replace("in_", "out_"))
        assert back.tolist() == array.tolist()


def test_unix_socket_is_served_and_gone_afterwards(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'oip.sock'}"
    with subprocess.Popen(
        [*SERVER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with grpc.insecure_channel(address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=10).live
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert not (tmp_path / "oip.sock").exists()


def test_address_where_nothing_can_listen_is_refused(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'absent' / 'oip.sock'}"
    result = subprocess.run(
        [*SERVER, address], input="", capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert f"expected an address to listen on, found {address}" in result.stderr
