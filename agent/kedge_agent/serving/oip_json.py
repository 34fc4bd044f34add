# SPDX-License-Identifier: Apache-2.0
"""Inference requests and answers over HTTP: JSON and binary tensors; no I/O.

With the protocol's binary tensor extension, the JSON is followed by the raw form of
some tensors, in their order; each says its size in `binary_data_size`, and a header
says where the JSON ends. Without it, numbers are JSON. NaN and infinity leave as null,
since JSON has no other word for them: who needs them asks for binary.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any, Final

import numpy as np
import orjson

from kedge_agent.errors import InvalidRequestError
from kedge_agent.serving.oip import (
    InferAnswer,
    InferRequest,
    Limits,
    RequestedOutput,
    count_checked,
    datatype_checked,
    datatype_named,
    from_listed,
    from_raw,
    listed_checked,
    parameters_checked,
    shape_checked,
    to_raw,
)

_NO_PARAMETERS: Final[Mapping[str, Any]] = {}


def parse_request(
    body: bytes, *, json_length: int | None, limits: Limits
) -> InferRequest:
    """Parse the body of an inference request.

    Args:
        body: All of it.
        json_length: Where its JSON ends and binary data starts; None where all is JSON.
        limits: What a caller may ask for.

    Raises:
        InvalidRequestError: Anything malformed.
    """
    end = len(body) if json_length is None else json_length
    if end > len(body):
        raise InvalidRequestError(
            f"Inference-Header-Content-Length: expected at most the body's {len(body)} "
            f"bytes, found {end}"
        )
    if end > limits.json_bytes:
        raise InvalidRequestError(
            f"JSON: expected at most {limits.json_bytes} bytes, found {end}; "
            "send large tensors as binary data"
        )
    view = memoryview(body)
    document = _document(view[:end])
    binary = _Binary(view[end:])
    parameters = _parameters(document)
    binary_outputs = _flag(parameters, "binary_data_output", default=False)
    inputs = _inputs(document, binary, limits)
    binary.finish()
    texts = _as_text(parameters)
    parameters_checked(texts, limits)
    return InferRequest(
        id=_text(document, "id"),
        parameters=texts,
        inputs=inputs,
        outputs=_requested(document, limits, binary=binary_outputs),
        binary=binary_outputs,
    )


def encode_answer(
    answer: InferAnswer, request: InferRequest, *, limits: Limits
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and where its JSON ends if binary data follows.

    Raises:
        InvalidRequestError: Only binary data can hold what was asked for.
    """
    chosen = {output.name: output.binary for output in request.outputs}
    tensors: list[dict[str, Any]] = []
    binary: list[bytes] = []
    listed = 0
    for name, array in answer.outputs:
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": datatype_named(name, array),
            "shape": array.shape,
        }
        if chosen.get(name, request.binary):
            raw = to_raw(name, array)
            tensor["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        else:
            listed += array.size
            if listed > limits.listed_elements:
                raise InvalidRequestError(
                    f"outputs: expected at most {limits.listed_elements} elements in "
                    f"JSON, found {listed} up to {name}; ask for them with binary_data",
                    element=name,
                )
            tensor["data"] = _json_data(name, array)
        tensors.append(tensor)
    document: dict[str, Any] = {
        "model_name": answer.model_name,
        "model_version": answer.model_version,
        "outputs": tensors,
    }
    if answer.id:
        document["id"] = answer.id
    if answer.parameters:
        document["parameters"] = answer.parameters
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return head, None
    return b"".join([head, *binary]), len(head)


class _Binary:
    """Hands out the bytes behind the JSON, in order, and sees that none is left."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._offset = 0

    def take(self, name: str, size: int) -> memoryview:
        start, end = self._offset, self._offset + size
        if end > len(self._data):
            raise InvalidRequestError(
                f"tensor {name}: expected {size} bytes of binary data, "
                f"found {len(self._data) - start}",
                element=name,
            )
        self._offset = end
        return self._data[start:end]

    def finish(self) -> None:
        if self._offset != len(self._data):
            raise InvalidRequestError(
                f"binary data: expected {self._offset} bytes as its tensors declare, "
                f"found {len(self._data)}"
            )


def _document(data: memoryview) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequestError(f"body: expected JSON ({exc})") from exc
    if not isinstance(document, dict):
        raise InvalidRequestError("body: expected a JSON object")
    return document


def _inputs(
    document: dict[str, Any], binary: _Binary, limits: Limits
) -> dict[str, np.ndarray]:
    tensors = _objects(document, "inputs", limits)
    inputs: dict[str, np.ndarray] = {}
    for tensor in tensors:
        name = _name("inputs", tensor, inputs)
        inputs[name] = _input(name, tensor, binary, limits)
    return inputs


def _input(
    name: str, tensor: dict[str, Any], binary: _Binary, limits: Limits
) -> np.ndarray:
    datatype = datatype_checked(name, tensor.get("datatype"))
    dims = tensor.get("shape")
    if not isinstance(dims, list):
        raise InvalidRequestError(
            f"tensor {name}: expected shape to be a list, found {dims!r:.80}",
            element=name,
        )
    shape = shape_checked(name, dims, limits)
    size = _parameters(tensor).get("binary_data_size")
    data = tensor.get("data")
    if (size is None) == (data is None):
        found = "neither" if size is None else "both"
        raise InvalidRequestError(
            f"tensor {name}: expected either data or binary_data_size, found {found}",
            element=name,
        )
    if size is None:
        listed_checked(name, shape, limits)
        return _from_json(name, datatype, shape, data)
    if type(size) is not int or size < 0:
        raise InvalidRequestError(
            f"tensor {name}: expected binary_data_size in bytes, found {size!r:.80}",
            element=name,
        )
    return from_raw(name, datatype, shape, binary.take(name, size), limits=limits)


def _from_json(
    name: str, datatype: str, shape: tuple[int, ...], data: Any
) -> np.ndarray:
    values = _flat(name, shape, data)
    if datatype == "BYTES":
        values = [v.encode() if isinstance(v, str) else v for v in values]
    return from_listed(name, datatype, shape, values)


def _flat(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    """Flatten lists nested exactly as `shape`, or flat already."""
    if not isinstance(data, list):
        raise InvalidRequestError(
            f"tensor {name}: expected data to be a list, found {data!r:.80}",
            element=name,
        )
    if not data or not isinstance(data[0], list):
        return data
    level: list[Any] = [data]
    for dim in shape:
        if any(not isinstance(part, list) or len(part) != dim for part in level):
            raise InvalidRequestError(
                f"tensor {name}: expected data flat, or nested as shape {list(shape)}, "
                "found it nested otherwise",
                element=name,
            )
        level = list(chain.from_iterable(level))
    return level


def _json_data(name: str, array: np.ndarray) -> Any:
    if array.dtype != object:
        return np.ascontiguousarray(array).reshape(-1)
    try:
        return [element.decode() for element in array.flat]
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(
            f"output {name}: expected to answer UTF-8 text in JSON, found other bytes; "
            "ask for it with binary_data",
            element=name,
        ) from exc


def _requested(
    document: dict[str, Any], limits: Limits, *, binary: bool
) -> tuple[RequestedOutput, ...]:
    if document.get("outputs") is None:
        return ()
    chosen: dict[str, RequestedOutput] = {}
    for output in _objects(document, "outputs", limits):
        name = _name("outputs", output, chosen)
        parameters = _parameters(output)
        if "classification" in parameters:
            raise InvalidRequestError(
                f"output {name}: expected no parameter classification: not provided",
                element=name,
            )
        chosen[name] = RequestedOutput(
            name=name, binary=_flag(parameters, "binary_data", default=binary)
        )
    return tuple(chosen.values())


def _objects(
    document: dict[str, Any], member: str, limits: Limits
) -> list[dict[str, Any]]:
    tensors = document.get(member)
    if not isinstance(tensors, list):
        raise InvalidRequestError(f"{member}: expected a list, found {tensors!r:.80}")
    count_checked(member, len(tensors), limits)
    for tensor in tensors:
        if not isinstance(tensor, dict):
            raise InvalidRequestError(
                f"{member}: expected objects, found {tensor!r:.80}"
            )
    return tensors


def _name(what: str, tensor: dict[str, Any], taken: Mapping[str, object]) -> str:
    name = tensor.get("name")
    if not isinstance(name, str) or not name or name in taken:
        raise InvalidRequestError(
            f"{what}: expected a name of its own for each, found {name!r:.80}"
        )
    return name


def _parameters(holder: dict[str, Any]) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return _NO_PARAMETERS
    if not isinstance(parameters, dict):
        raise InvalidRequestError(
            f"parameters: expected an object, found {parameters!r:.80}"
        )
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequestError(
            f"parameter {name}: expected true or false, found {value!r:.80}"
        )
    return value


def _text(document: dict[str, Any], member: str) -> str:
    value = document.get(member, "")
    if not isinstance(value, str):
        raise InvalidRequestError(f"{member}: expected a string, found {value!r:.80}")
    return value


def _as_text(parameters: Mapping[str, Any]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in parameters.items():
        if name == "binary_data_output":
            continue
        if isinstance(value, str):
            texts[name] = value
        elif isinstance(value, bool | int | float):
            texts[name] = orjson.dumps(value).decode()
        else:
            raise InvalidRequestError(
                f"parameter {name:.80}: expected a string, number or boolean, "
                f"found {value!r:.80}"
            )
    return texts
