# SPDX-License-Identifier: Apache-2.0
"""What every backend promises: one suite for all of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import pytest

from kedge_agent.errors import (
    GuestError,
    InvalidRequestError,
    ModelError,
    ProviderError,
)
from kedge_agent.inference.base import CPU, Backend, LoadedModel
from kedge_agent.inference.datatypes import DTYPES
from kedge_agent.inference.null import NullBackend
from kedge_agent.inference.onnx import OnnxBackend
from kedge_wire.statement import TensorSpec
from tests.simulators.onnx_models import affine, echo

ELEMENTS: Final = {name: b"z" if name == "BYTES" else 1 for name in DTYPES}


@pytest.fixture(params=[OnnxBackend, NullBackend])
def backend(request: pytest.FixtureRequest) -> Backend:
    made = request.param()
    assert isinstance(made, Backend)
    return made


@pytest.fixture
def model(backend: Backend) -> Iterator[LoadedModel]:
    loaded = backend.load(affine())
    yield loaded
    loaded.close()


def test_signature_is_the_models_own(model: LoadedModel) -> None:
    assert model.inputs == (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),)
    assert model.outputs == (TensorSpec(name="y", datatype="FP32", shape=(-1, 4)),)
    assert model.providers == (CPU,)


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_outputs_have_the_declared_type_and_the_batch_of_the_input(
    model: LoadedModel, batch: int
) -> None:
    outputs = model.run({"x": np.zeros((batch, 4), dtype=np.float32)})
    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].shape == (batch, 4)


def test_every_datatype_passes_through(backend: Backend) -> None:
    model = backend.load(echo())
    inputs = {
        f"in_{name}": np.full((2, 1), ELEMENTS[name], dtype=dtype)
        for name, dtype in DTYPES.items()
    }
    outputs = model.run(inputs)
    assert list(outputs) == [spec.name for spec in model.outputs]
    for spec in model.outputs:
        assert outputs[spec.name].dtype == DTYPES[spec.datatype]
        assert outputs[spec.name].shape == (2, 1)
        if spec.datatype == "BYTES":
            assert all(isinstance(e, bytes) for e in outputs[spec.name].flat)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "inputs: expected x, found none"),
        ({"z": np.zeros((1, 4), np.float32)}, "expected x, found z"),
        (
            {"x": np.zeros((1, 4), np.float32), "z": np.zeros(1)},
            "expected x, found x, z",
        ),
        ({"x": np.zeros((1, 4))}, r"expected x FP32\[\?,4\], found x FP64\[1,4\]"),
        ({"x": np.zeros((1, 4), np.complex64)}, r"found x complex64\[1,4\]"),
        ({"x": np.zeros((1, 4), ">f4")}, r"found x >f4\[1,4\]"),
        ({"x": np.zeros(4, np.float32)}, r"found x FP32\[4\]"),
        ({"x": np.zeros((1, 5), np.float32)}, r"found x FP32\[1,5\]"),
    ],
    ids=[
        "none",
        "other name",
        "one too many",
        "datatype",
        "no datatype of the protocol",
        "byte order",
        "rank",
        "size",
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    model: LoadedModel, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        model.run(inputs)


def test_not_a_model_is_refused(backend: Backend) -> None:
    with pytest.raises(ModelError, match="expected an ONNX file"):
        backend.load(b"not a model")


def test_providers_that_the_device_lacks_are_passed_over(backend: Backend) -> None:
    model = backend.load(affine(), providers=["NoSuchProvider", CPU])
    assert model.providers == (CPU,)


def test_no_provider_left_is_refused(backend: Backend) -> None:
    with pytest.raises(ProviderError, match="found NoSuchProvider") as caught:
        backend.load(affine(), providers=["NoSuchProvider"])
    assert CPU in str(caught.value)


def test_required_provider_that_is_used_is_enough(backend: Backend) -> None:
    model = backend.load(affine(), require_providers=["NoSuchProvider", CPU])
    assert model.providers[0] == CPU


def test_required_provider_that_is_not_used_is_refused(backend: Backend) -> None:
    with pytest.raises(ProviderError, match=f"NoSuchProvider.* runs on {CPU}"):
        backend.load(
            affine(),
            providers=["NoSuchProvider", CPU],
            require_providers=["NoSuchProvider"],
        )


def test_closed_model_answers_an_error_and_closes_again(model: LoadedModel) -> None:
    model.close()
    model.close()
    with pytest.raises(GuestError, match="closed"):
        model.run({"x": np.zeros((1, 4), dtype=np.float32)})


def test_one_model_runs_on_many_threads(model: LoadedModel) -> None:
    def rows(batch: int) -> int:
        answer = model.run({"x": np.zeros((batch, 4), dtype=np.float32)})["y"]
        return int(answer.shape[0])

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(rows, range(200))) == list(range(200))
