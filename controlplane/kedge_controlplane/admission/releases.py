# SPDX-License-Identifier: Apache-2.0
"""Admits releases and fleets: everything they name exists, and what is combined fits.

A reference can still be deleted afterwards; the controller that resolves it says so
then.
"""

from dataclasses import dataclass
from typing import TypeVar

from kedge_controlplane.admission.causes import invalid, missing
from kedge_controlplane.admission.claims import to_specs
from kedge_controlplane.errors import Cause, NotFoundError
from kedge_controlplane.model.component_version import ComponentVersion
from kedge_controlplane.model.configset import ConfigSet
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.model_version import ModelVersion
from kedge_controlplane.model.release import Release, ReleaseWorkload
from kedge_controlplane.store.store import Store
from kedge_wire.statement import mismatch

R = TypeVar("R", bound=Resource)


async def check_release(release: Release, store: Store) -> list[Cause]:
    """Say which references of `release` are wrong; empty where all are right."""
    causes: list[Cause] = []
    for index, workload in enumerate(release.spec.workloads):
        references = _References(store=store, namespace=release.namespace, causes=[])
        await _check_workload(workload, f"spec.workloads[{index}]", references)
        causes += references.causes
    return causes


async def check_fleet(fleet: Fleet, store: Store) -> list[Cause]:
    """Say what is wrong with `fleet`; empty where nothing is."""
    references = _References(store=store, namespace=fleet.namespace, causes=[])
    await references.get(
        Release, fleet.spec.template.spec.release, "spec.template.spec.release"
    )
    return references.causes + _batch_names(fleet)


async def _check_workload(
    workload: ReleaseWorkload, path: str, references: "_References"
) -> None:
    component = await references.get(
        ComponentVersion, workload.component, f"{path}.component"
    )
    model = await references.get(ModelVersion, workload.model, f"{path}.model")
    await references.get(ConfigSet, workload.config, f"{path}.config")
    if component is None or model is None:
        return
    for side, wanted, offered in (
        ("inputs", component.spec.model_inputs, model.spec.inputs),
        ("outputs", component.spec.model_outputs, model.spec.outputs),
    ):
        problem = mismatch(to_specs(wanted), to_specs(offered), side=side)
        if problem is not None:
            text = f"{workload.model} does not fit {workload.component}: {problem}"
            references.causes.append(invalid(f"{path}.model", text))


def _batch_names(fleet: Fleet) -> list[Cause]:
    names: set[str] = set()
    causes = []
    sequence = fleet.spec.rollout_policy.device_selection.sequence
    for index, batch in enumerate(sequence):
        if batch.name and batch.name in names:
            field = f"spec.rolloutPolicy.deviceSelection.sequence[{index}].name"
            causes.append(
                invalid(field, f"expected a name of its own, found {batch.name!r}")
            )
        names.add(batch.name)
    return causes


@dataclass(frozen=True, slots=True, kw_only=True)
class _References:
    """Looks up what an object names, and notes what is not there."""

    store: Store
    namespace: str
    causes: list[Cause]

    async def get(self, cls: type[R], name: str, field: str) -> R | None:
        try:
            return await self.store.get(cls, self.namespace, name)
        except NotFoundError:
            text = f"expected a {cls.__name__} in {self.namespace}, found no {name!r}"
            self.causes.append(missing(field, text))
            return None
