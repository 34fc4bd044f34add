# SPDX-License-Identifier: Apache-2.0
"""The null backend: zeros in the declared shape."""

import numpy as np
from onnx import TensorProto, helper

from kedge_agent.inference.null import NullBackend
from tests.simulators.onnx_models import affine, model, value


def test_answers_zeros_for_the_batch() -> None:
    outputs = NullBackend().load(affine()).run({"x": np.ones((3, 4), np.float32)})
    np.testing.assert_array_equal(outputs["y"], np.zeros((3, 4)))


def test_free_dimensions_beyond_the_batch_are_1() -> None:
    proto = model(
        [helper.make_node("NonZero", ["x"], ["y"])],
        [value("x", shape=[])],
        [value("y", TensorProto.INT64, [2, "count"])],
    )
    loaded = NullBackend().load(proto.SerializeToString())
    outputs = loaded.run({"x": np.ones((), np.float32)})
    assert outputs["y"].shape == (2, 1)


def test_a_model_without_inputs_has_a_batch_of_1() -> None:
    proto = model(
        [helper.make_node("Constant", [], ["y"], value_strings=["a"])],
        [],
        [value("y", TensorProto.STRING, ["N"])],
    )
    outputs = NullBackend().load(proto.SerializeToString()).run({})
    assert outputs["y"].tolist() == [b""]
