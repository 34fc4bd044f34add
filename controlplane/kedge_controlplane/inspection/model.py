# SPDX-License-Identifier: Apache-2.0
"""Looks into a model: an ONNX file whose signature can be read. Nothing is run."""

from kedge_controlplane.inspection.report import Report
from kedge_wire.onnx_model import OnnxModelError, read_signature


def inspect_model(model: bytes) -> Report:
    """Report a model's inputs and outputs, or why it is none that devices can load."""
    try:
        signature = read_signature(model)
    except OnnxModelError as exc:
        return Report.of_problems(str(exc))
    return Report(inputs=signature.inputs, outputs=signature.outputs)
