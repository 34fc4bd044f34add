# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from kedge_controlplane.model.device import (
    Device,
    DeviceSpec,
    DeviceStatus,
    OrderStatus,
    SummaryStatus,
    UpdatedStatus,
)
from kedge_controlplane.model.fleet import FleetSpec
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.rollout.reading import state, summary, updated
from kedge_controlplane.rollout.state import Outcome
from kedge_controlplane.sessions.ingest import apply_report
from kedge_wire.v1.report_pb2 import PHASE_UNSPECIFIED, PHASE_UPDATED, Phase, Report

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def device(template: str = "cams-b", *, ordered: str = "cams-b") -> Device:
    return Device(
        metadata=ObjectMeta(name="d-1", namespace="default"),
        spec=DeviceSpec(fleet="cams", template_version=template),
        status=DeviceStatus(
            order=OrderStatus(generation=1, template_version=ordered, since=NOW)
        ),
    )


def test_device_that_never_connected_is_unknown() -> None:
    assert summary(device(), fresh=False).status is SummaryStatus.UNKNOWN
    assert updated(device()).status is UpdatedStatus.UNKNOWN


def test_device_that_went_away_is_offline() -> None:
    away = device()
    away.status.last_seen = NOW
    assert summary(away, fresh=False).status is SummaryStatus.OFFLINE


def test_connected_device_before_its_first_update_is_online() -> None:
    assert summary(device(), fresh=True).status is SummaryStatus.ONLINE


def test_device_of_another_fleet_is_not_assigned() -> None:
    assert not state(device(), fleet="other", template="cams-b").assigned


def test_order_of_an_earlier_template_does_not_start_the_clock() -> None:
    found = state(device(ordered="cams-a"), fleet="cams", template="cams-b")
    assert found.assigned
    assert found.since is None
    assert found.outcome is Outcome.PENDING
    assert state(device(), fleet="cams", template="cams-b").since == NOW


@pytest.mark.parametrize("phase", [PHASE_UPDATED, PHASE_UNSPECIFIED])
def test_device_without_a_fleet_says_so(phase: Phase.ValueType) -> None:
    free = Device(metadata=ObjectMeta(name="d-1", namespace="default"))
    apply_report(free, Report(sequence=1, phase=phase), now=NOW)
    assert free.status.updated.status is UpdatedStatus.UP_TO_DATE
    assert free.status.updated.info == "no fleet assigned anything"


def test_device_whose_session_closed_says_so() -> None:
    away = device()
    away.status.last_seen = NOW
    assert summary(away, fresh=False, closed=True).info == "session closed"


def test_fleet_must_say_which_devices_it_wants() -> None:
    template = {"spec": {"release": "r-1"}}
    with pytest.raises(ValidationError, match="selector"):
        FleetSpec.model_validate({"template": template})
    everything = FleetSpec.model_validate({"template": template, "selector": {}})
    assert everything.selector.matches({})
