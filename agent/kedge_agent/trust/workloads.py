# SPDX-License-Identifier: Apache-2.0
"""The verifier's rules about one workload: publishers, statements, bounds, and fit.

Numbers are those of the list in `Verifier`. No I/O, no state.
"""

from collections.abc import Iterable
from typing import Final

from securesystemslib.signer._key import Key

from kedge_agent.errors import RefusedOrderError, UntrustedError
from kedge_agent.settings import Limits
from kedge_agent.trust.keys import TrustedKeys, signed
from kedge_agent.trust.order import (
    VerifiedArtifact,
    VerifiedWorkload,
    WorkloadLimits,
)
from kedge_wire import dsse
from kedge_wire.statement import ArtifactKind, Statement, StatementError, mismatch
from kedge_wire.v1.order_pb2 import Artifact, Workload

MAX_PROVIDERS: Final = 16
MAX_PROVIDER_NAME: Final = 64

_KINDS: Final = {
    ArtifactKind.COMPONENT: Artifact.Kind.KIND_COMPONENT,
    ArtifactKind.MODEL: Artifact.Kind.KIND_MODEL,
    ArtifactKind.CONFIG: Artifact.Kind.KIND_CONFIG,
}


class WorkloadVerifier:
    """Rules 9 to 14 for one workload of an order whose signature holds, and rule 15."""

    def __init__(self, keys: TrustedKeys, limits: Limits) -> None:
        self._keys, self._limits = keys, limits
        self._max_lengths = {
            ArtifactKind.COMPONENT: limits.component_bytes,
            ArtifactKind.MODEL: limits.model_bytes,
            ArtifactKind.CONFIG: limits.config_bytes,
        }

    def verify(self, workload: Workload) -> VerifiedWorkload:
        """Return what may be believed of `workload`.

        Raises:
            UntrustedError: Rules 10 and 12.
            RefusedOrderError: All others.
        """
        publishers = self._keys.publishers.get(workload.tenant)
        if not publishers:
            known = ", ".join(sorted(self._keys.publishers)) or "none"
            raise UntrustedError(
                f"workload {workload.name}: expected a tenant whose publishers this "
                f"device knows ({known}), found {workload.tenant!r:.80}",
                element=workload.name,
            )
        component, component_says = self._artifact(
            workload, workload.component, ArtifactKind.COMPONENT, publishers
        )
        model, model_says = self._artifact(
            workload, workload.model, ArtifactKind.MODEL, publishers
        )
        config, _ = self._artifact(
            workload, workload.config, ArtifactKind.CONFIG, publishers
        )
        _check_fit(workload.name, component_says, model_says)
        policy = workload.inference
        return VerifiedWorkload(
            name=workload.name,
            tenant=workload.tenant,
            component=component,
            model=model,
            config=config,
            providers=_providers(workload, policy.providers),
            require_providers=_providers(workload, policy.require_providers),
            limits=self._bounded(workload),
        )

    def _artifact(
        self,
        workload: Workload,
        artifact: Artifact,
        kind: ArtifactKind,
        publishers: Iterable[Key],
    ) -> tuple[VerifiedArtifact, Statement]:
        what = f"workload {workload.name}: {kind}"
        if artifact.kind != _KINDS[kind]:
            raise RefusedOrderError(
                f"{what}: expected an artifact of kind {_KINDS[kind]}, "
                f"found {artifact.kind}",
                element=workload.name,
            )
        says = _statement(artifact, publishers, what=what, element=workload.name)
        _check_stated(workload, artifact, kind, says)
        if says.length > self._max_lengths[kind]:
            raise RefusedOrderError(
                f"{what}: expected at most {self._max_lengths[kind]} bytes, "
                f"found {says.length}",
                element=workload.name,
            )
        verified = VerifiedArtifact(
            kind=kind,
            name=says.name,
            version=says.version,
            sha256=says.sha256,
            length=says.length,
            statement=artifact.statement.SerializeToString(),
        )
        return verified, says

    def _bounded(self, workload: Workload) -> WorkloadLimits:
        found, bound = workload.limits, self._limits
        for name, value, limit in (
            (
                "component_memory_bytes",
                found.component_memory_bytes,
                bound.instance_memory_bytes,
            ),
            ("wall_time_ms", found.wall_time_ms, bound.wall_time_ms),
            ("pool_size", found.pool_size, bound.pool_size),
            ("warmup_iterations", found.warmup_iterations, bound.warmup_iterations),
        ):
            if value > limit:
                raise RefusedOrderError(
                    f"workload {workload.name}: expected {name} of at most {limit}, "
                    f"found {value}",
                    element=workload.name,
                )
        return WorkloadLimits(
            component_memory_bytes=found.component_memory_bytes,
            wall_time_ms=found.wall_time_ms,
            pool_size=found.pool_size,
            warmup_iterations=found.warmup_iterations,
        )


def _statement(
    artifact: Artifact, publishers: Iterable[Key], *, what: str, element: str
) -> Statement:
    payload = signed(
        artifact.statement, dsse.ARTIFACT_TYPE, publishers, what=what, element=element
    )
    try:
        return Statement.from_bytes(payload)
    except StatementError as exc:
        raise UntrustedError(f"{what}: {exc}", element=element) from exc


def _check_stated(
    workload: Workload, artifact: Artifact, kind: ArtifactKind, says: Statement
) -> None:
    ordered = (
        workload.tenant,
        kind,
        artifact.name,
        artifact.version,
        artifact.sha256,
        artifact.length,
    )
    stated = (
        says.namespace,
        says.kind,
        says.name,
        says.version,
        says.sha256,
        says.length,
    )
    if ordered != stated:
        raise RefusedOrderError(
            f"workload {workload.name}: {kind}: expected what its publisher signed, "
            f"{stated!s:.300}, found {ordered!s:.300}",
            element=workload.name,
        )


def _check_fit(name: str, component: Statement, model: Statement) -> None:
    problem = mismatch(component.inputs, model.inputs, side="inputs") or mismatch(
        component.outputs, model.outputs, side="outputs"
    )
    if problem:
        raise RefusedOrderError(
            f"workload {name}: expected a model that fits {component}, "
            f"found {model}: {problem}",
            element=name,
        )


def _providers(workload: Workload, names: Iterable[str]) -> tuple[str, ...]:
    providers = tuple(names)
    if len(providers) > MAX_PROVIDERS or any(
        not 0 < len(name) <= MAX_PROVIDER_NAME for name in providers
    ):
        raise RefusedOrderError(
            f"workload {workload.name}: expected at most {MAX_PROVIDERS} providers "
            f"with names of at most {MAX_PROVIDER_NAME} characters",
            element=workload.name,
        )
    return providers
