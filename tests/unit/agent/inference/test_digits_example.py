# SPDX-License-Identifier: Apache-2.0
"""The digits example as shipped: what its README says of the two models is so."""

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime as ort
import pytest

from kedge_wire.onnx_model import read_signature
from kedge_wire.statement import TensorSpec

DIGITS = Path(__file__).parents[4] / "docs" / "examples" / "digits"
MODELS = ("digits-v1.onnx", "digits-v2.onnx")


def answers(name: str) -> np.ndarray:
    config = json.loads((DIGITS / "config.json").read_text())
    images = np.load(DIGITS / "heldout.npz")["images"]
    pixels = images.astype(np.float32).reshape(-1, 1, 8, 8) * config["scale"]
    session = ort.InferenceSession(
        (DIGITS / name).read_bytes(), providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run([config["output"]], {config["input"]: pixels})
    classes: np.ndarray = np.argmax(logits, axis=1)
    return classes


@pytest.mark.parametrize("name", MODELS)
def test_accuracy_is_as_the_readme_says(name: str) -> None:
    line = re.search(
        rf"`{name}`.*: ([\d.]+) % right", (DIGITS / "README.md").read_text()
    )
    assert line is not None
    labels = np.load(DIGITS / "heldout.npz")["labels"]
    accuracy = (answers(name) == labels).mean() * 100
    assert f"{accuracy:.1f}" == line[1]


def test_the_two_models_disagree_on_some_images() -> None:
    assert (answers(MODELS[0]) != answers(MODELS[1])).sum() >= 50


@pytest.mark.parametrize("name", MODELS)
def test_both_models_have_the_same_signature(name: str) -> None:
    signature = read_signature((DIGITS / name).read_bytes())
    assert signature.inputs == (
        TensorSpec(name="image", datatype="FP32", shape=(-1, 1, 8, 8)),
    )
    assert signature.outputs == (
        TensorSpec(name="logits", datatype="FP32", shape=(-1, 10)),
    )
    assert (signature.ir_version, signature.opset) == (10, 21)


def test_held_out_images_are_as_the_component_takes_them() -> None:
    held_out = np.load(DIGITS / "heldout.npz")
    assert held_out["images"].dtype == held_out["labels"].dtype == np.uint8
    assert held_out["images"].shape == (500, 64)
    assert held_out["images"].max() == 16
    assert sorted(set(held_out["labels"].tolist())) == list(range(10))


def test_configuration_holds_to_its_schema() -> None:
    schema = json.loads((DIGITS / "config.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    config = json.loads((DIGITS / "config.json").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config | {"surprise": 1}, schema)


def test_labels_are_the_ten_digits() -> None:
    assert (DIGITS / "labels.txt").read_text().split() == list("0123456789")
