# SPDX-License-Identifier: Apache-2.0
"""An admission for tests: refuses what is labelled so, and remembers what it saw."""

from kedge_controlplane.errors import Cause, InvalidError
from kedge_controlplane.model.meta import Resource


class PickyAdmission:
    def __init__(self) -> None:
        self.seen: list[tuple[Resource, Resource | None]] = []

    async def admit(self, new: Resource, old: Resource | None) -> Resource:
        self.seen.append((new, old))
        if "refuse" in new.metadata.labels:
            cause = Cause(
                reason="FieldValueNotFound", message="no such", field="spec.x"
            )
            raise InvalidError("refused", causes=[cause])
        return new
