# SPDX-License-Identifier: Apache-2.0
"""Inference on a real agent, through the protocol's reference client."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.e2e.fleet import ControlPlane, running

Ask = Callable[[ControlPlane, bytes], tuple[list[bytes], list[int]]]

pytestmark = pytest.mark.xdist_group("e2e-inference")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running(tmp_path_factory.mktemp("fleet"), devices=1) as plane:
        yield plane


def over_http(plane: ControlPlane, image: bytes) -> tuple[list[bytes], list[int]]:
    address = plane.agents[0].serving()["http"].removeprefix("http://")
    with triton_http.InferenceServerClient(address) as client:
        raw = triton_http.InferInput("raw", [len(image)], "UINT8")
        raw.set_data_from_numpy(np.frombuffer(image, np.uint8), binary_data=True)
        answer = client.infer("digits", [raw])
    return answer.as_numpy("label").tolist(), answer.as_numpy("index").tolist()


def over_grpc(plane: ControlPlane, image: bytes) -> tuple[list[bytes], list[int]]:
    address = plane.agents[0].serving()["grpc"]
    with triton_grpc.InferenceServerClient(address) as client:
        raw = triton_grpc.InferInput("raw", [len(image)], "UINT8")
        raw.set_data_from_numpy(np.frombuffer(image, np.uint8))
        answer = client.infer("digits", [raw])
    return answer.as_numpy("label").tolist(), answer.as_numpy("index").tolist()


@pytest.mark.parametrize("ask", [over_http, over_grpc])
def test_both_protocols_answer_what_the_model_file_answers(
    plane: ControlPlane, ask: Ask
) -> None:
    expected = plane.digits.references[0].answers
    for number in range(0, len(expected), 25):
        labels, indices = ask(plane, plane.digits.images[number])
        assert indices[0] == expected[number]
        assert labels[0] == str(expected[number]).encode()


@pytest.mark.parametrize("ask", [over_http, over_grpc])
def test_an_image_of_another_size_is_refused_by_the_component_and_named(
    plane: ControlPlane, ask: Ask
) -> None:
    with pytest.raises(InferenceServerException, match="64"):
        ask(plane, b"\x01" * 63)
    assert ask(plane, plane.digits.images[0])


def test_the_model_says_what_it_takes_and_which_version_it_is(
    plane: ControlPlane,
) -> None:
    address = plane.agents[0].serving()["http"].removeprefix("http://")
    with triton_http.InferenceServerClient(address) as client:
        metadata = client.get_model_metadata("digits")
        assert client.is_model_ready("digits")
        with pytest.raises(InferenceServerException, match="nothing"):
            client.get_model_metadata("nothing")
    assert metadata["versions"] == ["1"]
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["raw"]
    assert {t["name"]: t["datatype"] for t in metadata["outputs"]} == {
        "label": "BYTES",
        "score": "FP32",
        "index": "INT64",
    }
