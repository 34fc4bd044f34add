# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime

from kedge_controlplane.model.device import (
    Device,
    DeviceSpec,
    DeviceStatus,
    OrderStatus,
    SummaryStatus,
    UpdatedStatus,
)
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.rollout.reading import state, summary, updated
from kedge_controlplane.rollout.state import Outcome

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
