# SPDX-License-Identifier: Apache-2.0
"""Looks into an artifact of any kind, in this process.

Right for one's own files; bytes of others go through `inspector`. Each kind's reader,
and the library under it, is imported when it is needed.
"""

import json

from kedge_controlplane.inspection.limits import MAX_BYTES
from kedge_controlplane.inspection.report import Report
from kedge_wire.statement import ArtifactKind


def inspect(kind: ArtifactKind, artifact: bytes, *, schema: bytes = b"") -> Report:
    """Report what an artifact is, or what is wrong with it."""
    if not 0 < len(artifact) <= MAX_BYTES[kind]:
        found = _amount(kind, artifact)
        return Report.of_problems(
            f"{kind}: expected 1 to {MAX_BYTES[kind]} bytes, found {found}"
        )
    match kind:
        case ArtifactKind.COMPONENT:
            from kedge_controlplane.inspection.component import inspect_component

            return inspect_component(artifact)
        case ArtifactKind.MODEL:
            from kedge_controlplane.inspection.model import inspect_model

            return inspect_model(artifact)
        case ArtifactKind.CONFIG:
            from kedge_controlplane.inspection.config import inspect_config

            return inspect_config(artifact, json.loads(schema or b"{}"))


def _amount(kind: ArtifactKind, artifact: bytes) -> str:
    # A reader stops one byte beyond the limit, so the true size is not known.
    beyond = len(artifact) > MAX_BYTES[kind]
    return "more" if beyond else str(len(artifact))
