# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime

import pytest

from kedge_controlplane.model.device import (
    Device,
    DeviceSpec,
    DeviceStatus,
    OrderStatus,
    SummaryStatus,
    UpdatedStatus,
)
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.rollout.reading import outcome, updating
from kedge_controlplane.rollout.state import Outcome
from kedge_controlplane.sessions.ingest import apply_report
from kedge_wire.v1 import report_pb2
from kedge_wire.v1.order_pb2 import Order, Workload
from kedge_wire.v1.report_pb2 import Failure, Report, WorkloadStatus
from tests.simulators.enrolled_device import rolled_back, succeeded

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def device(*, generation: int = 2, first: int = 2) -> Device:
    return Device(
        metadata=ObjectMeta(name="d-1", namespace="default"),
        spec=DeviceSpec(fleet="cams", template_version="cams-b"),
        status=DeviceStatus(
            order=OrderStatus(
                generation=generation,
                template_version="cams-b",
                template_generation=first,
            )
        ),
    )


def order(generation: int = 2) -> Order:
    return Order(
        generation=generation,
        template_version="cams-b",
        workloads=[Workload(name="digits")],
    )


def applied(report: Report, target: Device | None = None) -> Device:
    target = target or device()
    apply_report(target, report, now=NOW)
    return target


def test_success_is_up_to_date_and_online() -> None:
    target = applied(succeeded(order()))
    assert target.status.updated.status is UpdatedStatus.UP_TO_DATE
    assert target.status.summary.status is SummaryStatus.ONLINE
    assert target.status.result == "SUCCESSFUL"
    assert outcome(target, "cams-b") is Outcome.SUCCEEDED


def test_rollback_is_a_failure_of_this_template_only() -> None:
    target = applied(rolled_back(order()))
    assert outcome(target, "cams-b") is Outcome.FAILED
    assert outcome(target, "cams-a") is Outcome.PENDING
    assert target.status.updated.status is UpdatedStatus.OUT_OF_DATE
    assert target.status.failure is not None
    assert target.status.failure.code == "DATA_LOSS"


def test_verdict_on_an_earlier_order_is_history() -> None:
    target = applied(rolled_back(order(generation=1)))
    assert outcome(target, "cams-b") is Outcome.PENDING


def test_verdict_survives_the_renewal_of_the_order() -> None:
    target = applied(succeeded(order(generation=2)), device(generation=3, first=2))
    assert outcome(target, "cams-b") is Outcome.SUCCEEDED


def test_refused_order_is_a_failure() -> None:
    failure = Failure(component="trust", code="PERMISSION_DENIED", message="no")
    report = Report(generation=1, refused_generation=2, failure=failure)
    assert outcome(applied(report), "cams-b") is Outcome.FAILED


@pytest.mark.parametrize(
    ("phase", "reason"),
    [
        (report_pb2.PHASE_PREPARING, "Preparing"),
        (report_pb2.PHASE_APPLYING_UPDATE, "ApplyingUpdate"),
        (report_pb2.PHASE_ROLLING_BACK, "RollingBack"),
    ],
)
def test_phase_under_way_is_updating(
    phase: report_pb2.Phase.ValueType, reason: str
) -> None:
    target = applied(Report(generation=2, phase=phase))
    condition = updating(target)
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", reason)
    assert target.status.updated.status is UpdatedStatus.UPDATING
    assert outcome(target, "cams-b") is Outcome.PENDING


def test_failed_update_with_the_old_workload_serving_is_degraded() -> None:
    report = rolled_back(order())
    report.workloads.append(WorkloadStatus(name="digits", ready=True))
    assert applied(report).status.summary.status is SummaryStatus.DEGRADED


def test_nothing_serving_though_something_should_is_an_error() -> None:
    assert applied(rolled_back(order())).status.summary.status is SummaryStatus.ERROR
    report = succeeded(order())
    report.workloads[0].ready = False
    assert applied(report).status.summary.status is SummaryStatus.ERROR


def test_report_of_a_newer_agent_is_tolerated() -> None:
    report = Report.FromString(
        Report(generation=2).SerializeToString() + b"\x30\x63" + b"\x38\x63"
    )
    target = applied(report)
    condition = updating(target)
    assert condition is not None
    assert condition.reason == "Unknown"
    assert target.status.result == "UNKNOWN_99"


def test_large_report_is_cut() -> None:
    report = Report(
        generation=2**64 - 1,
        running_generation=2**64 - 1,
        serving_http="x" * 10_000,
        workloads=[
            WorkloadStatus(name="w" * 5_000, requests=2**64 - 1, providers=["p"] * 999)
            for _ in range(500)
        ],
    )
    target = applied(report)
    assert len(target.model_dump_json()) < 500_000
    assert target.status.running.generation == 2**63 - 1
