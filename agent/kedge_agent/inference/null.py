# SPDX-License-Identifier: Apache-2.0
"""A backend that computes nothing: zeros in the shape that the model declares.

For trying out rollouts and protocols where the figures do not matter, and as the second
implementation that the conformance suite holds the seam to. It needs no ONNX Runtime.
"""

from collections.abc import Mapping

import numpy as np

from kedge_agent.inference.base import CPU, Backend, LoadedModel
from kedge_agent.inference.datatypes import DTYPES
from kedge_wire.onnx_model import ModelSignature
from kedge_wire.statement import TensorSpec


class NullModel(LoadedModel):
    """Answers zeros; empty `bytes` for BYTES."""

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch = self._batch(inputs)
        return {spec.name: _zeros(spec, batch) for spec in self.outputs}

    def _close(self) -> None:
        """There is nothing to free."""

    def _batch(self, inputs: Mapping[str, np.ndarray]) -> int:
        if not self.inputs:
            return 1
        shape = inputs[self.inputs[0].name].shape
        return shape[0] if shape else 1


class NullBackend(Backend):
    """Loads any acceptable ONNX file and runs none of it."""

    def available_providers(self) -> tuple[str, ...]:
        return (CPU,)

    def _load(
        self, model: bytes, signature: ModelSignature, providers: tuple[str, ...]
    ) -> LoadedModel:
        del model
        return NullModel(
            inputs=signature.inputs, outputs=signature.outputs, providers=providers
        )


def _zeros(spec: TensorSpec, batch: int) -> np.ndarray:
    """Make zeros: a free first dimension is the batch, any other free one is 1."""
    shape = [1 if dim < 0 else dim for dim in spec.shape]
    if spec.shape and spec.shape[0] < 0:
        shape[0] = batch
    fill = b"" if spec.datatype == "BYTES" else 0
    return np.full(shape, fill, dtype=DTYPES[spec.datatype])
