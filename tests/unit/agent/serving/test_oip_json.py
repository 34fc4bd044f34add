# SPDX-License-Identifier: Apache-2.0
"""Requests and answers as JSON and binary tensors: what is read and refused."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge_agent.errors import GuestError, InvalidRequestError
from kedge_agent.inference.datatypes import DTYPES
from kedge_agent.serving.oip import InferAnswer, InferRequest, Limits, RequestedOutput
from kedge_agent.serving.oip_json import encode_answer, parse_request

LIMITS = Limits(
    body_bytes=4096,
    json_bytes=2048,
    listed_elements=64,
    tensors=4,
    parameters_bytes=1024,
    timeout_s=1,
)
EXTREMES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [-65504, 0.5],
    "FP32": [-1.5, 3],
    "FP64": [-1e300, 0.1],
    "BYTES": ["", "käse"],
}


def tensor(**members: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "name": "x",
        "datatype": "FP32",
        "shape": [2],
        "data": [1, 2],
    }
    return {k: v for k, v in (whole | members).items() if v is not ...}


def parse(
    *tensors: Any, binary: bytes = b"", cut: int = 0, **members: Any
) -> InferRequest:
    head = orjson.dumps({"inputs": list(tensors)} | members)
    length = len(head) - cut if binary or cut else None
    return parse_request(head + binary, json_length=length, limits=LIMITS)


def answer(*outputs: tuple[str, np.ndarray], **members: Any) -> InferAnswer:
    fields: dict[str, Any] = {"id": "", "parameters": {}} | members
    return InferAnswer(model_name="m", model_version="1", outputs=outputs, **fields)


def encode(answer: InferAnswer, request: InferRequest) -> tuple[bytes, int | None]:
    return encode_answer(answer, request, limits=LIMITS)


def elements(values: list[Any], datatype: str) -> list[Any]:
    return [v.encode() for v in values] if datatype == "BYTES" else values


@pytest.mark.parametrize("datatype", EXTREMES)
def test_json_holds_every_datatypes_extremes(datatype: str) -> None:
    values = EXTREMES[datatype]
    array = parse(tensor(datatype=datatype, data=values)).inputs["x"]
    assert array.dtype == DTYPES[datatype]
    assert array.tolist() == pytest.approx(elements(values, datatype))


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_json_may_be_nested_as_the_shape_or_flat(datatype: str) -> None:
    flat: list[Any] = ["a", "b", "c", "d"] if datatype == "BYTES" else [1, 2, 3, 4]
    for data in (flat, [flat[:2], flat[2:]]):
        request = parse(tensor(datatype=datatype, shape=[2, 2], data=data))
        values = elements(flat, datatype)
        assert request.inputs["x"].tolist() == [values[:2], values[2:]]


def test_empty_tensors_are_read() -> None:
    assert parse(tensor(shape=[0, 3], data=[])).inputs["x"].shape == (0, 3)
    text = parse(tensor(shape=[0], datatype="BYTES", data=[])).inputs["x"]
    assert text.shape == (0,)


def test_id_and_parameters_reach_the_model_as_text() -> None:
    request = parse(
        tensor(),
        id="42",
        parameters={"a": "b", "n": 3, "f": 1.5, "t": True, "binary_data_output": True},
    )
    assert request.id == "42"
    assert request.parameters == {"a": "b", "n": "3", "f": "1.5", "t": "true"}
    assert request.binary


def test_binary_tensors_follow_in_order_at_any_offset() -> None:
    a = np.array([1.5, -2], dtype=np.float32)
    b = np.array([7], dtype=np.int64)
    request = parse(
        tensor(name="t", datatype="UINT8", shape=[1], data=..., parameters=size(1)),
        tensor(name="a", data=..., parameters=size(8)),
        tensor(name="j", shape=[1], data=[4]),
        tensor(name="b", datatype="INT64", shape=[1], data=..., parameters=size(8)),
        binary=b"\x09" + a.tobytes() + b.tobytes(),
    )
    assert [array.tolist() for array in request.inputs.values()] == [
        [9],
        [1.5, -2],
        [4],
        [7],
    ]
    assert all(array.flags.aligned for array in request.inputs.values())


def size(count: Any) -> dict[str, Any]:
    return {"binary_data_size": count}


def test_requested_outputs_choose_their_form() -> None:
    request = parse(
        tensor(),
        outputs=[{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
        parameters={"binary_data_output": True},
    )
    assert request.outputs == (
        RequestedOutput(name="a", binary=True),
        RequestedOutput(name="b", binary=False),
    )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": ...}, "a name of its own"),
    "name not text": ({"name": 7}, "a name of its own"),
    "no datatype": ({"datatype": ...}, "tensor x: expected a datatype of BOOL"),
    "datatype unknown": ({"datatype": "BF16"}, "found 'BF16'"),
    "datatype not text": ({"datatype": ["FP32"]}, "tensor x: expected a datatype"),
    "no shape": ({"shape": ...}, "tensor x: expected shape to be a list"),
    "negative shape": ({"shape": [-1]}, "found -1 at position 0"),
    "boolean shape": ({"shape": [True]}, "found True at position 0"),
    "fractional shape": ({"shape": [2.0]}, "found 2.0 at position 0"),
    "shape beyond memory": ({"shape": [2**40, 2**40]}, "at most 4096 elements"),
    "shape hidden behind zero": ({"shape": [0, 2**62, 4]}, "at most 4096 elements"),
    "shape of too many": ({"shape": [1] * 65}, "at most 64 integers"),
    "more listed than handled": ({"shape": [65]}, "at most 64 elements, found 65"),
    "no data": ({"data": ...}, "found neither"),
    "data and size": ({"parameters": size(8)}, "found both"),
    "data not a list": ({"data": "ab"}, "expected data to be a list"),
    "too few": ({"data": [1]}, "expected 2 elements for shape"),
    "too many": ({"data": [1, 2, 3]}, "found 3"),
    "nested otherwise": ({"shape": [4], "data": [[1, 2], [3, 4]]}, "nested otherwise"),
    "ragged": ({"shape": [2, 2], "data": [[1], [2, 3]]}, "nested otherwise"),
    "text for numbers": ({"data": ["1", "2"]}, "expected FP32 elements"),
    "null for numbers": ({"data": [None, 1]}, "expected FP32 elements"),
    "objects for numbers": ({"data": [{}, {}]}, "expected FP32 elements"),
    "booleans for numbers": ({"data": [True, False]}, "expected FP32 elements"),
    "beyond FP32": ({"data": [1e300, 0]}, "range of FP32"),
    "beyond FP16": ({"datatype": "FP16", "data": [7e4, 0]}, "range of FP16"),
    "beyond UINT8": ({"datatype": "UINT8", "data": [0, 256]}, "range of UINT8"),
    "negative UINT8": ({"datatype": "UINT8", "data": [-1, 0]}, "range of UINT8"),
    "beyond INT64": ({"datatype": "INT64", "data": [2**63, 0]}, "range of INT64"),
    "fraction for INT32": (
        {"datatype": "INT32", "data": [1.5, 0]},
        "INT32 elements, found float",
    ),
    "numbers for BOOL": (
        {"datatype": "BOOL", "data": [1, 0]},
        "BOOL elements, found int",
    ),
    "numbers for BYTES": (
        {"datatype": "BYTES", "data": [1, 0]},
        "BYTES elements, found int",
    ),
    "too few strings": ({"datatype": "BYTES", "data": ["a"]}, "found 1"),
    "ragged strings": (
        {"datatype": "BYTES", "data": [["a"], "b"]},
        "elements, found list",
    ),
    "parameters not an object": ({"parameters": [1]}, "parameters: expected an object"),
    "negative size": ({"data": ..., "parameters": size(-1)}, "found -1"),
    "size not a number": ({"data": ..., "parameters": size("8")}, "found '8'"),
    "size true": ({"data": ..., "parameters": size(True)}, "found True"),
    "binary data missing": ({"data": ..., "parameters": size(8)}, "found 0"),
}


@pytest.mark.parametrize(("members", "message"), REFUSED.values(), ids=REFUSED)
def test_malformed_tensor_is_refused(members: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        parse(tensor(**members))


def lengths(*each: int) -> bytes:
    return b"".join(n.to_bytes(4, "little") + b"a" * n for n in each)


REFUSED_BINARY: dict[str, tuple[str, list[int], bytes, str]] = {
    "too short": ("FP32", [2], bytes(4), "expected 8 bytes for FP32"),
    "too long": ("FP32", [2], bytes(12), "expected 8 bytes for FP32"),
    "not a whole element": ("INT64", [1], bytes(7), "expected 8 bytes for INT64"),
    "neither true nor false": ("BOOL", [2], b"\x01\x02", "found 2"),
    "fewer strings": ("BYTES", [2], lengths(3), "in element 1"),
    "more strings": ("BYTES", [1], lengths(3, 1), "found them to end at 7"),
    "string beyond the end": (
        "BYTES",
        [1],
        b"\xff\xff\xff\xffabc",
        "end at 4294967299",
    ),
    "length cut short": ("BYTES", [1], b"\x01\x00", "in element 0"),
    "too many strings": ("BYTES", [65], lengths(*[0] * 65), "at most 64 elements"),
}


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    REFUSED_BINARY.values(),
    ids=REFUSED_BINARY,
)
def test_malformed_binary_tensor_is_refused(
    datatype: str, shape: list[int], data: bytes, message: str
) -> None:
    members = {"datatype": datatype, "shape": shape, "parameters": size(len(data))}
    with pytest.raises(InvalidRequestError, match=f"tensor x: .*{message}"):
        parse(tensor(data=..., **members), binary=data)


def test_binary_data_that_no_tensor_claims_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"expected 0 bytes .* found 3"):
        parse(tensor(), binary=b"abc")


@pytest.mark.parametrize(
    ("body", "json_length", "message"),
    [
        (b"", None, "body: expected JSON"),
        (b"{", None, "body: expected JSON"),
        (b'{"inputs": NaN}', None, "body: expected JSON"),
        (b"[" * 2000, None, "body: expected JSON"),
        (b"\xff", None, "body: expected JSON"),
        (b"[]", None, "expected a JSON object"),
        (b"{}", None, "inputs: expected a list, found None"),
        (b'{"inputs": {}}', None, "inputs: expected a list"),
        (b'{"inputs": [1]}', None, "inputs: expected objects"),
        (b'{"inputs": [], "id": 3}', None, "id: expected a string"),
        (b'{"inputs": [], "outputs": 3}', None, "outputs: expected a list"),
        (b'{"inputs": [], "outputs": [{}]}', None, "outputs: expected a name"),
        (b'{"inputs": [], "parameters": {"a": []}}', None, "parameter a: expected"),
        (
            b'{"inputs": [], "parameters": {"binary_data_output": 1}}',
            None,
            "binary_data_output: expected true or false",
        ),
        (b"{}", 3, "expected at most the body's 2 bytes, found 3"),
        (b" " * 2049, None, "JSON: expected at most 2048 bytes"),
        (b'{"inputs": [{}, {}, {}, {}, {}]}', None, "at most 4 tensors, found 5"),
    ],
)
def test_malformed_body_is_refused(
    body: bytes, json_length: int | None, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        parse_request(body, json_length=json_length, limits=LIMITS)


def test_json_length_that_cuts_the_json_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="body: expected JSON"):
        parse(tensor(), cut=1)


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="a name of its own"):
        parse(tensor(), tensor())


def test_classification_is_refused_rather_than_ignored() -> None:
    with pytest.raises(InvalidRequestError, match="classification"):
        parse(tensor(), outputs=[{"name": "y", "parameters": {"classification": 2}}])


@settings(deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(0, 200))
def test_any_bytes_are_parsed_or_refused(body: bytes, length: int | None) -> None:
    with pytest.raises(InvalidRequestError):
        parse_request(body, json_length=length, limits=LIMITS)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "name": st.text(max_size=2),
            "datatype": st.sampled_from([*DTYPES, "FP8"]),
            "shape": st.lists(st.integers(-1, 3), max_size=3),
            "data": st.recursive(
                st.integers(-300, 300) | st.floats() | st.text(max_size=2) | st.none(),
                lambda inner: st.lists(inner, max_size=4),
                max_leaves=9,
            ),
        }
    )
)
def test_any_tensor_is_read_as_declared_or_refused(members: dict[str, Any]) -> None:
    try:
        array = parse(members).inputs[members["name"]]
    except InvalidRequestError:
        return
    assert array.dtype == DTYPES[members["datatype"]]
    assert list(array.shape) == members["shape"]


def decoded(body: bytes, json_end: int | None) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(body[:json_end])
    return document


def test_answer_in_json() -> None:
    text = np.array([b"a", "ä".encode()], dtype=object)
    numbers = np.arange(4, dtype=np.float16).reshape(2, 2).T
    body, json_end = encode(
        answer(("t", text), ("n", numbers), id="7", parameters={"k": "v"}),
        parse(tensor()),
    )
    assert json_end is None
    assert orjson.loads(body) == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "parameters": {"k": "v"},
        "outputs": [
            {"name": "t", "datatype": "BYTES", "shape": [2], "data": ["a", "ä"]},
            {"name": "n", "datatype": "FP16", "shape": [2, 2], "data": [0, 2, 1, 3]},
        ],
    }


def test_answer_in_binary_follows_the_json() -> None:
    text = np.array([b"\xff", b""], dtype=object)
    number = np.array(7, dtype=np.int16)
    request = parse(
        tensor(),
        parameters={"binary_data_output": True},
        outputs=[
            {"name": "t"},
            {"name": "j", "parameters": {"binary_data": False}},
            {"name": "n"},
        ],
    )
    body, json_end = encode(answer(("t", text), ("j", number), ("n", number)), request)
    assert body[json_end:] == b"\x01\0\0\0\xff\0\0\0\0" + b"\x07\0"
    outputs = decoded(body, json_end)["outputs"]
    assert [output.get("parameters") for output in outputs] == [size(9), None, size(2)]
    assert outputs[1]["data"] == [7]


def test_nan_leaves_as_null_in_json_and_as_itself_in_binary() -> None:
    array = np.array([np.nan], dtype=np.float32)
    body, _ = encode(answer(("y", array)), parse(tensor()))
    assert orjson.loads(body)["outputs"][0]["data"] == [None]
    request = parse(tensor(), parameters={"binary_data_output": True})
    body, json_end = encode(answer(("y", array)), request)
    assert np.isnan(np.frombuffer(body[json_end:], dtype=np.float32)).all()


def test_bytes_that_are_not_text_need_binary() -> None:
    array = np.array([b"\xff"], dtype=object)
    with pytest.raises(InvalidRequestError, match=r"y: .* ask for it with binary_data"):
        encode(answer(("y", array)), parse(tensor()))


def test_output_without_a_datatype_of_the_protocol_is_the_models_fault() -> None:
    array = np.zeros(1, dtype=np.complex64)
    with pytest.raises(GuestError, match=r"output y: .* found complex64"):
        encode(answer(("y", array)), parse(tensor()))


def test_outputs_of_many_elements_need_binary() -> None:
    half = np.zeros(LIMITS.listed_elements // 2 + 1, dtype=np.uint8)
    encode(answer(("y", half)), parse(tensor()))
    two = answer(("y", half), ("z", half))
    with pytest.raises(InvalidRequestError, match=r"found 66 .* with binary_data"):
        encode(two, parse(tensor()))
    binary = parse(tensor(), parameters={"binary_data_output": True})
    assert encode(two, binary)[1] is not None


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({str(n): n for n in range(65)}, "expected at most 64, found 65"),
        ({"k": "ä" * 600}, "expected at most 1024 bytes, found 1201"),
    ],
    ids=["too many", "too long"],
)
def test_parameters_are_bounded(parameters: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"parameters: {why}"):
        parse(tensor(), parameters=parameters)
