# SPDX-License-Identifier: Apache-2.0
"""What devices say becomes their status, in one transaction per report.

A report is the whole observed state, so the newest replaces what was there. One that is
not newer than the stored one changes nothing and is acknowledged all the same: its
sender only missed the acknowledgement. A session's first report counts whatever its
number is: a device restored from an older image numbers from there. `report` returns
after COMMIT. Lengths and counts are cut here: a device can make its own status wrong,
never large.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from kedge_controlplane.model.device import (
    Device,
    Failure,
    Running,
    Serving,
    SystemInfo,
    WorkloadStatus,
)
from kedge_controlplane.model.meta import Condition, ConditionStatus, set_condition
from kedge_controlplane.reconcile.clock import Clock
from kedge_controlplane.reconcile.loop import Key
from kedge_controlplane.rollout import reading
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.transaction import Transaction
from kedge_wire.v1 import report_pb2, session_pb2

_TEXT: Final = 1024
_WORKLOADS: Final = 64
_PROVIDERS: Final = 64
_MAX_INT: Final = 2**63 - 1

_REASONS: Final = {
    report_pb2.PHASE_PREPARING: "Preparing",
    report_pb2.PHASE_READY_TO_UPDATE: "ReadyToUpdate",
    report_pb2.PHASE_APPLYING_UPDATE: "ApplyingUpdate",
    report_pb2.PHASE_ACTIVATING: "Activating",
    report_pb2.PHASE_VERIFYING: "Verifying",
    report_pb2.PHASE_ROLLING_BACK: "RollingBack",
    report_pb2.PHASE_UPDATED: reading.UPDATED_REASON,
    report_pb2.PHASE_ERROR: reading.ERROR_REASON,
}
_SETTLED: Final = (reading.UPDATED_REASON, reading.ERROR_REASON)


class Ingest:
    """Writes devices' statuses."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def hello(self, device: Key, hello: session_pb2.Hello) -> None:
        """Store the facts that a device begins its session with.

        Raises:
            NotFoundError: There is no such device.
        """
        facts = hello.facts
        info = SystemInfo(
            hostname=facts.hostname[:_TEXT],
            architecture=facts.architecture[:_TEXT],
            operating_system=facts.operating_system[:_TEXT],
            cpus=facts.cpus,
            memory_bytes=min(facts.memory_bytes, _MAX_INT),
            agent_version=hello.agent_version[:_TEXT],
            runtime_versions=facts.runtime_versions[:_TEXT],
            providers=_texts(facts.providers),
        )

        async def work(transaction: Transaction) -> None:
            stored = await transaction.get(Device, device.namespace, device.name)
            stored.status.system_info = info
            await transaction.update_status(stored)

        await self._store.write(work)

    async def report(
        self, device: Key, report: report_pb2.Report, *, first: bool = False
    ) -> None:
        """Store a report.

        Args:
            device: Whose.
            report: As received.
            first: Whether it is the first one of its session.

        Raises:
            NotFoundError: There is no such device.
        """

        async def work(transaction: Transaction) -> None:
            stored = await transaction.get(Device, device.namespace, device.name)
            if 0 < report.sequence <= _MAX_INT and (
                first or report.sequence > stored.status.report_sequence
            ):
                apply_report(stored, report, now=self._clock.now())
                await transaction.update_status(stored)

        await self._store.write(work)


def apply_report(device: Device, report: report_pb2.Report, *, now: datetime) -> None:
    """Replace what the device's status says it observed. Changes `device`, no I/O."""
    status = device.status
    status.report_sequence = report.sequence
    status.last_seen = now.astimezone(UTC)
    status.running = Running(
        generation=min(report.running_generation, _MAX_INT),
        template_version=report.running_template_version[:_TEXT],
        workloads=[_workload(w) for w in report.workloads[:_WORKLOADS]],
    )
    status.serving = Serving(
        http=report.serving_http[:_TEXT], grpc=report.serving_grpc[:_TEXT]
    )
    status.result = _result(report.result)
    status.failure = _failure(report)
    status.conditions = set_condition(
        status.conditions, _updating(device, report, now=now)
    )
    status.updated = reading.updated(device)
    status.summary = reading.summary(device, fresh=True)


def _updating(device: Device, report: report_pb2.Report, *, now: datetime) -> Condition:
    refused = report.refused_generation > report.generation
    reason = reading.ERROR_REASON if refused else _REASONS.get(report.phase, "Unknown")
    failure = device.status.failure
    return Condition(
        type=reading.UPDATING,
        status=(ConditionStatus.FALSE if reason in _SETTLED else ConditionStatus.TRUE),
        reason=reason,
        message=failure.message if failure else "",
        last_transition_time=now,
        observed_generation=min(
            max(report.generation, report.refused_generation), _MAX_INT
        ),
    )


def _failure(report: report_pb2.Report) -> Failure | None:
    if not report.HasField("failure"):
        return None
    failure = report.failure
    return Failure(
        phase=_REASONS.get(failure.phase, "Unknown"),
        component=failure.component[:_TEXT],
        element=failure.element[:_TEXT],
        code=failure.code[:_TEXT],
        message=failure.message[:_TEXT],
    )


def _result(result: report_pb2.Result.ValueType) -> str:
    if result not in report_pb2.Result.values():  # of a newer agent
        return f"UNKNOWN_{result}"
    if result == report_pb2.RESULT_UNSPECIFIED:
        return ""
    return report_pb2.Result.Name(result).removeprefix("RESULT_")


def _workload(status: report_pb2.WorkloadStatus) -> WorkloadStatus:
    return WorkloadStatus(
        name=status.name[:_TEXT],
        tenant=status.tenant[:_TEXT],
        component=status.component_version[:_TEXT],
        model=status.model_version[:_TEXT],
        config=status.config_version[:_TEXT],
        component_digest=status.component_sha256[:_TEXT],
        model_digest=status.model_sha256[:_TEXT],
        config_digest=status.config_sha256[:_TEXT],
        providers=_texts(status.providers),
        ready=status.ready,
        requests=min(status.requests, _MAX_INT),
        failures=min(status.failures, _MAX_INT),
        last_swap_micros=status.last_swap_micros,
        prepare_millis=status.prepare_millis,
    )


def _texts(values: Sequence[str]) -> list[str]:
    return [value[:_TEXT] for value in values[:_PROVIDERS]]
