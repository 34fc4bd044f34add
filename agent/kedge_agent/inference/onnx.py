# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: the only module that imports it.

Sessions are made from verified bytes, never from a path, and use one thread: two
callers on two cores are faster than one caller on both. A session is thread-safe and
holds no request's data.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from kedge_agent.errors import GuestError, InvalidRequestError, ModelError
from kedge_agent.inference.base import CPU, Backend, LoadedModel
from kedge_wire.onnx_model import ModelSignature

ERROR_SEVERITY: Final = 3
"""Of ONNX Runtime's own log on standard error; below it are notes on each graph."""

FAILURES: Final[tuple[type[Exception], ...]] = (
    RuntimeError,
    ValueError,
    TypeError,
    *(
        kind
        for kind in vars(ort_errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)
"""What ONNX Runtime raises. Its own exceptions share no base; versions add to them."""


class OnnxModel(LoadedModel):
    """A model in an ONNX Runtime session."""

    def __init__(self, session: Any, signature: ModelSignature) -> None:
        super().__init__(
            inputs=signature.inputs,
            outputs=signature.outputs,
            providers=_used_providers(session),
        )
        self._session = session
        self._output_names = [spec.name for spec in signature.outputs]
        self._text_inputs = frozenset(
            spec.name for spec in signature.inputs if spec.datatype == "BYTES"
        )
        self._has_text_outputs = any(o.datatype == "BYTES" for o in signature.outputs)

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = self._session
        if session is None:
            raise GuestError("the model is closed: expected an open one")
        feed = dict(inputs)
        for name in self._text_inputs:
            feed[name] = _decoded(name, feed[name])
        try:
            results = session.run(self._output_names, feed)
        except ort_errors.InvalidArgument as exc:
            raise InvalidRequestError(f"the model refuses its inputs: {exc}") from exc
        except FAILURES as exc:
            raise GuestError(f"the model failed: {exc}") from exc
        if self._has_text_outputs:
            results = [_encoded(result) for result in results]
        return dict(zip(self._output_names, results, strict=True))

    def _close(self) -> None:
        # A run under way holds a reference of its own.
        self._session = None


class OnnxBackend(Backend):
    """Runs models in ONNX Runtime, in this process."""

    def available_providers(self) -> tuple[str, ...]:
        return tuple(ort.get_available_providers())

    def _load(
        self, model: bytes, signature: ModelSignature, providers: tuple[str, ...]
    ) -> LoadedModel:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = ERROR_SEVERITY
        # What the graph was really given to: a provider that takes no node is not used.
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            session = ort.InferenceSession(
                model, sess_options=options, providers=list(providers)
            )
        except FAILURES as exc:
            raise ModelError(f"model: ONNX Runtime does not load it: {exc}") from exc
        return OnnxModel(session, signature)


def _used_providers(session: Any) -> tuple[str, ...]:
    used = {part.ep_name for part in session.get_provider_graph_assignment_info()}
    # A graph folded into constants is given to nobody.
    return tuple(name for name in session.get_providers() if name in used) or (CPU,)


def _decoded(name: str, array: np.ndarray) -> np.ndarray:
    text = np.empty(array.shape, dtype=object)
    try:
        text.reshape(-1)[:] = [element.decode() for element in array.flat]
    except (AttributeError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(
            f"input {name}: expected UTF-8 text in a BYTES tensor ({exc})", element=name
        ) from exc
    return text


def _encoded(result: np.ndarray) -> np.ndarray:
    if result.dtype != object:
        return result
    encoded = np.empty(result.shape, dtype=object)
    encoded.reshape(-1)[:] = [element.encode() for element in result.flat]
    return encoded
