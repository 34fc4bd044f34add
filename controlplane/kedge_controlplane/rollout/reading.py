# SPDX-License-Identifier: Apache-2.0
"""What a device's record means: outcome of its update, is it up to date, is it well.

Pure functions over one Device. The condition Updating carries the phase of the last
report as its reason, and in observedGeneration the order that the report speaks of.
"""

from typing import Final

from kedge_controlplane.model.device import (
    Device,
    Summary,
    SummaryStatus,
    Updated,
    UpdatedStatus,
)
from kedge_controlplane.model.meta import Condition
from kedge_controlplane.rollout.state import DeviceState, Outcome

UPDATING: Final = "Updating"
"""Type of the condition that follows an update."""

UPDATED_REASON: Final = "Updated"
ERROR_REASON: Final = "Error"


def updating(device: Device) -> Condition | None:
    """Return the condition Updating, or None before the first report."""
    conditions = device.status.conditions
    return next((c for c in conditions if c.type == UPDATING), None)


def outcome(device: Device, template: str) -> Outcome:
    """Say what became of the update to `template`.

    Only what the device said about an order with this template counts: its verdict on
    an earlier order, even one with the same template, is history.
    """
    order, condition = device.status.order, updating(device)
    if device.spec.template_version != template or order.template_version != template:
        return Outcome.PENDING
    if condition is None or (
        (condition.observed_generation or 0) < order.template_generation
    ):
        return Outcome.PENDING
    if condition.reason == ERROR_REASON:
        return Outcome.FAILED
    serves = device.status.running.template_version == template
    if condition.reason == UPDATED_REASON and serves:
        return Outcome.SUCCEEDED
    return Outcome.PENDING


def state(device: Device, *, fleet: str, template: str) -> DeviceState:
    """Reduce a device to what the rollout engine looks at."""
    order = device.status.order
    assigned = (device.spec.fleet, device.spec.template_version) == (fleet, template)
    return DeviceState(
        name=device.name,
        labels=device.metadata.labels,
        assigned=assigned,
        since=order.since if assigned and order.template_version == template else None,
        outcome=outcome(device, template) if assigned else Outcome.PENDING,
    )


def updated(device: Device) -> Updated:
    """Compare what the device shall run with what it says it runs."""
    wanted, condition = device.spec.template_version, updating(device)
    if condition is None:
        return Updated(status=UpdatedStatus.UNKNOWN, info="no report yet")
    match outcome(device, wanted):
        case Outcome.SUCCEEDED:
            return Updated(status=UpdatedStatus.UP_TO_DATE, info=_idle(device))
        case Outcome.FAILED:
            return Updated(status=UpdatedStatus.OUT_OF_DATE, info=condition.message)
        case Outcome.PENDING:
            return _pending(device, condition)


def summary(device: Device, *, fresh: bool, closed: bool = False) -> Summary:
    """Say how the device is.

    Args:
        device: Its record.
        fresh: Whether it was heard of within the time that makes a device Offline.
        closed: Whether it is not because its session was seen to end.
    """
    if not fresh:
        if device.status.last_seen is None:
            return Summary(status=SummaryStatus.UNKNOWN, info="never connected")
        info = "session closed" if closed else "no sign of life"
        return Summary(status=SummaryStatus.OFFLINE, info=info)
    workloads, failure = device.status.running.workloads, device.status.failure
    unready = [workload.name for workload in workloads if not workload.ready]
    names = ", ".join(unready)
    info = failure.message if failure else f"not ready: {names}" if names else ""
    serves = len(unready) < len(workloads)
    if not serves and (workloads or (device.spec.template_version and failure)):
        return Summary(status=SummaryStatus.ERROR, info=info)
    if unready or failure:
        return Summary(status=SummaryStatus.DEGRADED, info=info)
    return Summary(status=SummaryStatus.ONLINE)


def _pending(device: Device, condition: Condition) -> Updated:
    order, wanted = device.status.order, device.spec.template_version
    if not wanted and not order.generation:
        return Updated(status=UpdatedStatus.UP_TO_DATE, info=_idle(device))
    concerns_order = (condition.observed_generation or 0) >= order.template_generation
    if order.template_version == wanted and concerns_order:
        if condition.reason in (UPDATED_REASON, ERROR_REASON):
            return Updated(status=UpdatedStatus.OUT_OF_DATE, info=condition.message)
        return Updated(status=UpdatedStatus.UPDATING, info=condition.reason)
    return Updated(
        status=UpdatedStatus.OUT_OF_DATE, info="the order is not accepted yet"
    )


def _idle(device: Device) -> str:
    """Say why a device that is up to date runs nothing; empty: it runs something.

    A fleet may select the device and not have come to it yet.
    """
    if device.spec.template_version:
        return ""
    return "nothing to run" if device.spec.fleet else "no fleet assigned anything"
