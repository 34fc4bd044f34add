# SPDX-License-Identifier: Apache-2.0
"""Inference requests and answers as gRPC messages; no I/O.

A request carries every tensor raw, or every tensor as typed contents. Answers are
always raw: every client reads that, and it is the only form that holds FP16.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

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
from kedge_wire.oip.grpc_predict_v2_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
)

_CONTENTS: Final[Mapping[str, str]] = {
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
"""The field that holds each datatype's elements; FP16 has none."""


def parse_request(message: ModelInferRequest, *, limits: Limits) -> InferRequest:
    """Parse an inference request.

    Raises:
        InvalidRequestError: Anything malformed.
    """
    count_checked("inputs", len(message.inputs), limits)
    count_checked("outputs", len(message.outputs), limits)
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequestError(
            f"raw_input_contents: expected {len(message.inputs)}, one for each input, "
            f"found {len(raw)}"
        )
    inputs: dict[str, np.ndarray] = {}
    for index, tensor in enumerate(message.inputs):
        if not tensor.name or tensor.name in inputs:
            raise InvalidRequestError(
                "inputs: expected a name of its own for each, "
                f"found {tensor.name!r:.80}"
            )
        inputs[tensor.name] = _input(tensor, raw[index] if raw else None, limits)
    parameters = {name: _text(p) for name, p in message.parameters.items()}
    parameters_checked(parameters, limits)
    return InferRequest(
        id=message.id,
        parameters=parameters,
        inputs=inputs,
        outputs=_requested(message),
    )


def encode_answer(answer: InferAnswer) -> ModelInferResponse:
    """Return the message of an answer."""
    response = ModelInferResponse(
        model_name=answer.model_name, model_version=answer.model_version, id=answer.id
    )
    for name, value in answer.parameters.items():
        response.parameters[name].string_param = value
    for name, array in answer.outputs:
        response.outputs.add(
            name=name, datatype=datatype_named(name, array), shape=array.shape
        )
        response.raw_output_contents.append(to_raw(name, array))
    return response


def _input(
    tensor: ModelInferRequest.InferInputTensor, raw: bytes | None, limits: Limits
) -> np.ndarray:
    name = tensor.name
    datatype = datatype_checked(name, tensor.datatype)
    shape = shape_checked(name, tensor.shape, limits)
    if raw is None:
        listed_checked(name, shape, limits)
        return _typed(tensor, datatype, shape)
    if tensor.HasField("contents"):
        raise InvalidRequestError(
            f"tensor {name}: expected contents or raw_input_contents, found both",
            element=name,
        )
    return from_raw(name, datatype, shape, raw, limits=limits)


def _typed(
    tensor: ModelInferRequest.InferInputTensor, datatype: str, shape: tuple[int, ...]
) -> np.ndarray:
    member = _CONTENTS.get(datatype)
    if member is None:
        raise InvalidRequestError(
            f"tensor {tensor.name}: expected {datatype} in raw_input_contents, "
            "found none",
            element=tensor.name,
        )
    return from_listed(
        tensor.name, datatype, shape, list(getattr(tensor.contents, member))
    )


def _requested(message: ModelInferRequest) -> tuple[RequestedOutput, ...]:
    chosen: dict[str, RequestedOutput] = {}
    for output in message.outputs:
        if output.name in chosen:
            raise InvalidRequestError(
                f"outputs: expected each once, found {output.name!r:.80} again"
            )
        if "classification" in output.parameters:
            raise InvalidRequestError(
                f"output {output.name}: expected no parameter classification: "
                "not provided",
                element=output.name,
            )
        chosen[output.name] = RequestedOutput(name=output.name, binary=True)
    return tuple(chosen.values())


def _text(parameter: InferParameter) -> str:
    chosen = parameter.WhichOneof("parameter_choice")
    if chosen is None:
        return ""
    value = getattr(parameter, chosen)
    return str(value).lower() if isinstance(value, bool) else str(value)
