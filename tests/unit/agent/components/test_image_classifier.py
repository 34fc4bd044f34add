# SPDX-License-Identifier: Apache-2.0
"""The shipped component through a pool and ONNX Runtime: answers and refusals."""

import hashlib
import json
import time
from typing import Any, Final

import numpy as np
import pytest

from kedge_agent.components.engine import CompiledComponent
from kedge_agent.components.instance import Instance, InstanceLimits, NamedArray
from kedge_agent.errors import ConfigError, GuestError, InvalidRequestError
from kedge_agent.host.log import GuestLog
from kedge_agent.inference.base import LoadedModel
from kedge_wire.statement import TensorSpec
from tests.unit.agent.components.conftest import PoolMaker
from tests.unit.agent.components.guests import SHIPPED

LABELS: Final = [f"label-{number}" for number in range(12)]
CONFIG: Final[dict[str, Any]] = {
    "width": 2,
    "height": 2,
    "channels": 3,
    "input": "image",
    "output": "scores",
    "scale": 1.0,
    "topK": 12,
    "labels": LABELS,
}
PIXELS: Final = np.arange(12, dtype=np.uint8)
"""Two rows of two pixels of three channels."""


def text(**changes: Any) -> str:
    merged = {**CONFIG, **changes}
    return json.dumps({name: value for name, value in merged.items() if value != ...})


def scores_in_order(answer: list[NamedArray]) -> np.ndarray:
    """Undo the sorting: the softmax of what the model saw, flattened."""
    arrays = dict(answer)
    scores = np.empty(len(arrays["index"]), np.float32)
    scores[arrays["index"]] = arrays["score"]
    return scores


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max())
    normalised: np.ndarray = (exponentials / exponentials.sum()).astype(np.float32)
    return normalised


async def test_the_shipped_file_is_the_one_its_digest_names() -> None:
    recorded = SHIPPED.with_suffix(".digest").read_text().split()[0]

    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() == recorded


async def test_metadata_says_what_goes_in_and_out(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    metadata = (await pools(shipped, config=text())).metadata

    assert (metadata.name, metadata.version) == ("image-classifier", "0.1.0")
    assert metadata.accepts == TensorSpec(name="raw", datatype="UINT8", shape=(12,))
    assert [str(spec) for spec in metadata.model_inputs] == ["image FP32[?,3,2,2]"]
    assert [str(spec) for spec in metadata.model_outputs] == ["scores FP32[?,?]"]
    assert [str(spec) for spec in metadata.returns] == [
        "label BYTES[?]",
        "score FP32[?]",
        "index INT64[?]",
    ]


async def test_metadata_before_the_configuration_leaves_sizes_and_names_free(
    shipped: CompiledComponent,
) -> None:
    deadline = time.monotonic() + 10
    log = GuestLog(tenant="t", workload="w")
    instance = Instance(
        shipped, models={}, limits=InstanceLimits(), log=log, deadline=deadline
    )
    metadata = instance.metadata(deadline=deadline)
    instance.close()

    assert str(metadata.accepts) == "raw UINT8[?]"
    assert [str(spec) for spec in metadata.model_inputs] == ["* FP32[?,?,?,?]"]
    assert [str(spec) for spec in metadata.model_outputs] == ["* FP32[?,?]"]


async def test_the_best_classes_come_first_with_label_score_and_index(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=text(layout="NHWC", topK=3))

    answer = dict(await pool.infer(PIXELS, {}))

    assert list(answer) == ["label", "score", "index"]
    assert answer["label"].tolist() == [b"label-11", b"label-10", b"label-9"]
    assert answer["index"].tolist() == [11, 10, 9]
    assert answer["index"].dtype == np.int64
    np.testing.assert_allclose(
        answer["score"], softmax(PIXELS.astype(np.float32))[[11, 10, 9]], rtol=1e-6
    )


async def test_nchw_puts_channels_before_rows(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=text(layout=...))

    scores = scores_in_order(await pool.infer(PIXELS, {}))

    seen = PIXELS.reshape(2, 2, 3).transpose(2, 0, 1).ravel().astype(np.float32)
    np.testing.assert_allclose(scores, softmax(seen), rtol=1e-6)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
async def test_scale_mean_and_std_apply_per_channel(
    pools: PoolMaker, shipped: CompiledComponent, layout: str
) -> None:
    mean, std = [0.5, 0.25, 0.0], [0.5, 2.0, 4.0]
    config = text(layout=layout, scale=0.125, mean=mean, std=std)
    pool = await pools(shipped, config=config)

    scores = scores_in_order(await pool.infer(PIXELS, {}))

    seen = (PIXELS.reshape(2, 2, 3) * 0.125 - np.array(mean)) / np.array(std)
    if layout == "NCHW":
        seen = seen.transpose(2, 0, 1)
    np.testing.assert_allclose(scores, softmax(seen.ravel()), rtol=1e-5)


async def test_pixels_are_divided_by_255_unless_configured(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=text(layout="NHWC", scale=...))

    scores = scores_in_order(await pool.infer(PIXELS * 20, {}))

    np.testing.assert_allclose(scores, softmax(PIXELS * 20 / 255), rtol=1e-5)


async def test_equal_scores_come_in_the_order_of_their_classes(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=text())

    answer = dict(await pool.infer(np.zeros(12, np.uint8), {}))

    assert answer["index"].tolist() == list(range(12))


async def test_a_class_beyond_the_labels_is_named_by_its_number(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=text(labels=["müll"], layout="NHWC"))

    answer = dict(await pool.infer(PIXELS[::-1].copy(), {}))

    assert answer["label"][:2].tolist() == ["müll".encode(), b"class 1"]


async def test_more_classes_asked_for_than_the_model_has_gives_all(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=text(topK=100))

    assert len(dict(await pool.infer(PIXELS, {}))["label"]) == 12


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (PIXELS[:11], "raw: expected 12 bytes.*found 11"),
        (np.zeros(0, np.uint8), "raw: expected 12 bytes.*found 0"),
        (PIXELS.astype(np.float32), "raw: expected elements of type uint8"),
        (np.array([b"x"] * 12, dtype=object), "expected elements of type uint8"),
        (np.zeros(12, np.complex64), "raw: expected a type of the protocol"),
    ],
    ids=["short", "empty", "float", "bytes", "no-type-of-the-protocol"],
)
async def test_raw_input_of_another_size_or_type_is_refused(
    pools: PoolMaker, shipped: CompiledComponent, raw: np.ndarray, message: str
) -> None:
    pool = await pools(shipped, config=text())

    with pytest.raises(InvalidRequestError, match=message):
        await pool.infer(raw, {})
    assert len(await pool.infer(PIXELS, {})) == 3


async def test_an_output_that_the_model_does_not_have_is_named_with_those_it_has(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=text(output="logits"))

    with pytest.raises(InvalidRequestError, match="expected logits, found scores"):
        await pool.infer(PIXELS, {})


async def test_an_input_that_the_model_does_not_have_is_refused(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=text(input="picture"))

    with pytest.raises(InvalidRequestError, match="expected image, found picture"):
        await pool.infer(PIXELS, {})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", "byte 0: expected a value, found the end"),
        ("[]", "expected a JSON object"),
        (text() + "x", "expected the end, found 'x'"),
        ('{"a": 1, "a": 2}', 'member "a" appears twice'),
        ("[" * 20, "expected at most 8 levels"),
        ('{"a": 01}', "expected ',' or '}', found '1'"),
        ('{"a": "\\ud800"}', "expected a pair of surrogates"),
        ('{"a": "\n"}', "expected no control character"),
        ('{"a": "', "expected '\"', found the end"),
        ('{"a": nope}', "expected a value"),
        (text(width=...), "width: expected a whole number from 1.*found nothing"),
        (text(width=0), "width: expected a whole number from 1 to 65536, found 0"),
        (text(height=2.5), "height: .*found 2.5"),
        (text(channels="3"), 'channels: .*found "3"'),
        (text(channels=1e9), "channels: .*found 1000000000"),
        (text(input=""), 'input: expected the name of a tensor, found ""'),
        (text(output=7), "output: expected the name of a tensor, found 7"),
        (text(layout="HWC"), 'layout: expected "NCHW" or "NHWC", found "HWC"'),
        (text(scale="1"), 'scale: expected a number, found "1"'),
        ('{"scale": 1e999, "channels": 3}', "scale: expected a number, found 1e999"),
        (text(mean=[0, 0]), r"mean: expected a list of 1 or 3 numbers, found \[0, 0\]"),
        (text(std=[0]), "std: expected values that scale and mean can be divided by"),
        (text(std=0.5), "std: expected a list of 1 or 3 numbers, found 0.5"),
        (text(topK=-1), "topK: .*found -1"),
        (text(topK=None), "topK: .*found null"),
        (text(labels={"0": "a"}), "labels: expected a list of strings"),
        (text(labels=["a", 1]), "labels: expected a list of strings, found 1"),
        (text(colour="red"), 'colour: no such member, found "red"'),
    ],
)
async def test_a_wrong_configuration_is_refused_naming_the_member(
    pools: PoolMaker, shipped: CompiledComponent, config: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        await pools(shipped, config=config)


async def test_json_escapes_and_spaces_are_understood(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    label = 'quote " slash \\ / tab \t accent é pair 😀'
    config = json.dumps({**CONFIG, "labels": [label], "layout": "NHWC"}, indent=2)
    pool = await pools(shipped, config=f"\r\n\t {config} ")

    answer = dict(await pool.infer(PIXELS[::-1].copy(), {}))

    assert answer["label"][0].decode() == label


async def test_a_refused_configuration_leaves_the_one_before_in_force(
    shipped: CompiledComponent, model: LoadedModel
) -> None:
    deadline = time.monotonic() + 5
    with Instance(
        shipped,
        models={"default": model},
        limits=InstanceLimits(),
        log=GuestLog(tenant="acme", workload="camera"),
        deadline=deadline,
    ) as instance:
        with pytest.raises(GuestError, match="not configured"):
            instance.health(deadline=deadline)
        instance.configure(text(topK=2), deadline=deadline)
        with pytest.raises(ConfigError, match="topK"):
            instance.configure(text(topK=0), deadline=deadline)

        instance.health(deadline=deadline)
        answer = dict(instance.infer(PIXELS, {}, deadline=deadline))

    assert len(answer["label"]) == 2
