# SPDX-License-Identifier: Apache-2.0
"""The one place that decides whether an order is obeyed. No I/O, no state, no clock.

What it is given is hostile until every rule has held: sizes are checked before parsing,
signatures before anything in the payload is believed. Wire types stop here.
"""

import hashlib
from datetime import UTC, datetime
from typing import Final

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from kedge_agent.errors import RefusedOrderError
from kedge_agent.settings import Limits
from kedge_agent.trust.keys import TrustedKeys, signed
from kedge_agent.trust.order import Floor, VerifiedOrder
from kedge_agent.trust.workloads import WorkloadVerifier
from kedge_wire import dsse
from kedge_wire.statement import NAME
from kedge_wire.v1.order_pb2 import Envelope, Order

MAX_GENERATION: Final = 2**63 - 1
"""What the journal can count to."""

MAX_TEMPLATE_NAME: Final = 253


class Verifier:
    """Obeys an order only if all of these hold.

    1.  Envelope and payload are at most `Limits.order_bytes` long.
    2.  A director key that this device was enrolled with signed it, as an order.
    3.  The payload is an Order.
    4.  It is addressed to this device and to the tenant that owns it.
    5.  Its generation is from 1 to `MAX_GENERATION`, and at or above the floor.
    6.  At the floor, it is byte for byte the order that set the floor.
    7.  It has both times, was issued before it expires, and has not expired. The clock
        is never taken to be earlier than the newest time that a director signed.
    8.  It has at most `Limits.workloads` workloads with distinct DNS labels as names,
        and none without a template version.
    9.  Providers and limits of each workload are within bounds.
    10. This device knows publishers of each workload's tenant.
    11. Each workload has a component, a model and a configuration, in these places.
    12. Each of them has a statement that a publisher of the workload's tenant signed,
        as a statement, and that parses.
    13. The statement says the same namespace, kind, name, version, SHA-256 and length.
    14. No artifact is longer than its kind's limit, and one digest has one length.
    15. The model's signature fits what the component asks for.
    """

    def __init__(
        self, *, device: str, tenant: str, keys: TrustedKeys, limits: Limits
    ) -> None:
        self._device, self._tenant = device, tenant
        self._keys, self._limits = keys, limits
        self._workloads = WorkloadVerifier(keys, limits)

    def verify_order(
        self, envelope: Envelope, *, floor: Floor, now: datetime
    ) -> VerifiedOrder:
        """Verify an order that has just arrived.

        Raises:
            UntrustedError: Rules 2, 10 and 12.
            RefusedOrderError: All others.
        """
        order, digest = self._authentic(envelope)
        _check_floor(order, digest, floor)
        verified = self._verified(order, digest, envelope)
        clock = max(now, floor.clock) if floor.clock else now
        if verified.expires <= clock:
            raise RefusedOrderError(
                f"order {order.generation}: expected one that has not expired by "
                f"{clock.isoformat()}, found expiry {verified.expires.isoformat()}",
                element="expires",
            )
        return verified

    def verify_stored(self, envelope: bytes, *, generation: int) -> VerifiedOrder:
        """Verify an order that this device accepted earlier and reads from its disk.

        Age and floor were judged when it came: what runs is not stopped by a clock.

        Raises:
            UntrustedError: No trusted key signed it, or one of its artifacts.
            RefusedOrderError: It is not that generation's order for this device.
        """
        parsed = _parse_envelope(envelope)
        order, digest = self._authentic(parsed)
        if order.generation != generation:
            raise RefusedOrderError(
                f"stored order: expected generation {generation}, "
                f"found {order.generation}",
                element="generation",
            )
        return self._verified(order, digest, parsed)

    def _authentic(self, envelope: Envelope) -> tuple[Order, str]:
        size, limit = envelope.ByteSize(), self._limits.order_bytes
        if size > limit:
            raise RefusedOrderError(
                f"order: expected at most {limit} bytes, found {size}", element="order"
            )
        payload = signed(
            envelope,
            dsse.ORDER_TYPE,
            self._keys.director,
            what="order",
            element="order",
        )
        try:
            order = Order.FromString(payload)
        except DecodeError as exc:
            raise RefusedOrderError(
                f"order: expected a kedge_wire.v1.Order ({exc})", element="order"
            ) from exc
        if (order.device, order.tenant) != (self._device, self._tenant):
            raise RefusedOrderError(
                f"order: expected device {self._device} of tenant {self._tenant}, "
                f"found {order.device!r:.80} of {order.tenant!r:.80}",
                element="device",
            )
        if not 1 <= order.generation <= MAX_GENERATION:
            raise RefusedOrderError(
                f"order: expected a generation from 1 to {MAX_GENERATION}, "
                f"found {order.generation}",
                element="generation",
            )
        return order, hashlib.sha256(payload).hexdigest()

    def _verified(self, order: Order, digest: str, envelope: Envelope) -> VerifiedOrder:
        issued = _time(order, order.issued, field="issued")
        expires = _time(order, order.expires, field="expires")
        if issued >= expires:
            raise RefusedOrderError(
                f"order {order.generation}: expected to expire after it was issued "
                f"({issued.isoformat()}), found {expires.isoformat()}",
                element="expires",
            )
        self._check_shape(order)
        verified = VerifiedOrder(
            generation=order.generation,
            issued=issued,
            expires=expires,
            template_version=order.template_version,
            workloads=tuple(self._workloads.verify(w) for w in order.workloads),
            digest=digest,
            envelope=envelope.SerializeToString(),
        )
        _check_lengths(verified)
        return verified

    def _check_shape(self, order: Order) -> None:
        limit, names = self._limits.workloads, [w.name for w in order.workloads]
        if len(names) > limit:
            raise RefusedOrderError(
                f"order {order.generation}: expected at most {limit} workloads, "
                f"found {len(names)}",
                element="workloads",
            )
        if len(order.template_version) > MAX_TEMPLATE_NAME or (
            names and not order.template_version
        ):
            raise RefusedOrderError(
                f"order {order.generation}: expected a template version of at most "
                f"{MAX_TEMPLATE_NAME} characters with {len(names)} workloads, "
                f"found {order.template_version!r:.80}",
                element="template_version",
            )
        for position, name in enumerate(names):
            if not NAME.fullmatch(name):
                raise RefusedOrderError(
                    f"workload {position}: expected a DNS label as name, "
                    f"found {name!r:.80}",
                    element=f"workloads[{position}]",
                )
            if name in names[:position]:
                raise RefusedOrderError(
                    f"workload {name}: expected distinct names, found it twice",
                    element=name,
                )


def claimed_generation(envelope: Envelope) -> int:
    """Return the generation that an envelope claims, for a report about refusing it.

    Nothing may be decided by it: nobody has checked who wrote it.
    """
    try:
        return min(Order.FromString(envelope.payload).generation, MAX_GENERATION)
    except DecodeError:
        return 0


def _parse_envelope(data: bytes) -> Envelope:
    try:
        return Envelope.FromString(data)
    except DecodeError as exc:
        raise RefusedOrderError(
            f"stored order: expected a kedge_wire.v1.Envelope ({exc})", element="order"
        ) from exc


def _check_floor(order: Order, digest: str, floor: Floor) -> None:
    if order.generation < floor.generation:
        raise RefusedOrderError(
            f"order: expected generation {floor.generation} or newer, "
            f"found {order.generation}",
            element="generation",
        )
    if order.generation == floor.generation and digest != floor.digest:
        raise RefusedOrderError(
            f"order {order.generation}: expected the same bytes as before (SHA-256 "
            f"{floor.digest}), found {digest}",
            element="generation",
        )


def _time(order: Order, stamp: Timestamp, *, field: str) -> datetime:
    problem = RefusedOrderError(
        f"order {order.generation}: expected a time in {field}, "
        f"found {stamp.seconds} seconds",
        element=field,
    )
    if not stamp.seconds:
        raise problem
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as exc:
        raise problem from exc


def _check_lengths(order: VerifiedOrder) -> None:
    lengths = order.lengths
    for workload in order.workloads:
        for artifact in workload.artifacts:
            if lengths[artifact.sha256] != artifact.length:
                raise RefusedOrderError(
                    f"workload {workload.name}: {artifact}: expected one length per "
                    f"digest ({lengths[artifact.sha256]} bytes), "
                    f"found {artifact.length}",
                    element=workload.name,
                )
