# SPDX-License-Identifier: Apache-2.0
"""Looks into a component: of our world, and what it asks of its model."""

from kedge_controlplane.inspection.report import Report
from kedge_wire.inspection import check_component
from kedge_wire.world import WorldError


def inspect_component(wasm: bytes) -> Report:
    """Report what a component asks of its model, or why devices cannot load it."""
    try:
        metadata = check_component(wasm).metadata
    except WorldError as exc:
        return Report.of_problems(*exc.problems)
    return Report(
        inputs=metadata.model_inputs,
        outputs=metadata.model_outputs,
        name=metadata.name,
        version=metadata.version,
    )
