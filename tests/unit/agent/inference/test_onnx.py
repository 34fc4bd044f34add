# SPDX-License-Identifier: Apache-2.0
"""What ONNX Runtime computes, and how its refusals come out."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from kedge_agent.errors import (
    GuestError,
    InvalidRequestError,
    ModelError,
    ProviderError,
)
from kedge_agent.inference.base import CPU
from kedge_agent.inference.onnx import OnnxBackend
from tests.simulators.onnx_models import affine, echo, gather, model, value

ELSEWHERE = "AzureExecutionProvider"
"""In ONNX Runtime's own builds, and takes no part of an ordinary model."""


def test_answers_are_computed() -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    outputs = OnnxBackend().load(affine()).run({"x": x})
    np.testing.assert_array_equal(outputs["y"], 2 * x + 1)


def test_nan_and_infinity_pass() -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 0]], dtype=np.float32)
    outputs = OnnxBackend().load(affine()).run({"x": x})
    np.testing.assert_array_equal(outputs["y"], [[np.nan, np.inf, -np.inf, 1]])


def test_views_of_any_layout_are_read() -> None:
    x = np.arange(32, dtype=np.float32).reshape(4, 8)[::2, ::2]
    x.flags.writeable = False
    outputs = OnnxBackend().load(affine()).run({"x": x})
    np.testing.assert_array_equal(outputs["y"], 2 * x + 1)


def test_text_passes_as_bytes() -> None:
    text = np.empty((1, 2), dtype=object)
    text[0] = ["käse".encode(), b""]
    outputs = OnnxBackend().load(echo(["BYTES"])).run({"in_BYTES": text})
    assert outputs["out_BYTES"].tolist() == text.tolist()


@pytest.mark.parametrize("element", [b"\xff", "text", 3], ids=["latin", "str", "int"])
def test_bytes_that_are_not_text_are_refused(element: object) -> None:
    array = np.full((1, 1), element, dtype=object)
    with pytest.raises(InvalidRequestError, match="in_BYTES: expected UTF-8 text"):
        OnnxBackend().load(echo(["BYTES"])).run({"in_BYTES": array})


def test_inputs_that_only_the_run_finds_wrong_are_the_callers_fault() -> None:
    loaded = OnnxBackend().load(gather())
    with pytest.raises(InvalidRequestError, match="refuses its inputs"):
        loaded.run({"index": np.array([9], dtype=np.int64)})
    assert loaded.run({"index": np.array([3], dtype=np.int64)})["y"].tolist() == [3]


def test_a_model_that_fails_is_not_the_callers_fault() -> None:
    proto = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [value("x")],
        [value("y", shape=[3, "M"])],
        initializers=[helper.make_tensor("shape", TensorProto.INT64, [2], [3, -1])],
    )
    loaded = OnnxBackend().load(proto.SerializeToString())
    with pytest.raises(GuestError, match="the model failed"):
        loaded.run({"x": np.zeros(4, dtype=np.float32)})


def test_a_file_that_onnx_runtime_refuses_is_a_model_error() -> None:
    proto = model(
        [helper.make_node("NoSuchOperator", ["x"], ["y"])], [value("x")], [value("y")]
    )
    with pytest.raises(ModelError, match="NoSuchOperator"):
        OnnxBackend().load(proto.SerializeToString())


def test_provider_that_runs_no_part_of_the_model_does_not_count_as_used() -> None:
    backend = OnnxBackend()
    assert ELSEWHERE in backend.available_providers()
    loaded = backend.load(affine(), providers=[ELSEWHERE, CPU])
    assert loaded.providers == (CPU,)
    with pytest.raises(ProviderError, match=f"{ELSEWHERE}.* runs on {CPU}"):
        backend.load(
            affine(), providers=[ELSEWHERE, CPU], require_providers=[ELSEWHERE]
        )


def test_a_model_folded_into_a_constant_runs_on_the_cpu() -> None:
    proto = model(
        [helper.make_node("Identity", ["k"], ["y"])],
        [],
        [value("y", shape=[1])],
        initializers=[helper.make_tensor("k", TensorProto.FLOAT, [1], [5.0])],
    )
    loaded = OnnxBackend().load(proto.SerializeToString())
    assert loaded.providers == (CPU,)
    assert loaded.run({})["y"].tolist() == [5]


def test_available_providers_are_onnx_runtimes() -> None:
    assert OnnxBackend().available_providers() == tuple(ort.get_available_providers())
