# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes do to the process that looks into them, the answer is a report."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from kedge_controlplane.errors import TooManyRequestsError
from kedge_controlplane.inspection.artifact import inspect
from kedge_controlplane.inspection.inspector import InspectionLimits, Inspector
from kedge_controlplane.inspection.report import Report, ReportError
from kedge_wire.statement import ArtifactKind
from tests.unit.controlplane.admission.publisher import COMPONENT, image_model

ENDLESS_SCHEMA = json.dumps({"properties": {"a": {"pattern": "^(a+)+$"}}}).encode()
ENDLESS_VALUES = json.dumps({"a": "a" * 60 + "!"}).encode()


async def chunks(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize(
    ("kind", "data"),
    [(ArtifactKind.COMPONENT, COMPONENT), (ArtifactKind.MODEL, image_model())],
)
async def test_the_other_process_sees_what_this_one_sees(
    kind: ArtifactKind, data: bytes
) -> None:
    assert await Inspector().inspect(kind, chunks(data)) == inspect(kind, data)


async def test_an_endless_pattern_ends_with_its_process() -> None:
    inspector = Inspector(limits=InspectionLimits(wall_time_s=1.5))
    report = await inspector.inspect(
        ArtifactKind.CONFIG, chunks(ENDLESS_VALUES), schema=ENDLESS_SCHEMA
    )
    assert "expected it to end within 1.5 s" in report.problems[0].message


async def test_too_little_memory_is_a_report() -> None:
    inspector = Inspector(limits=InspectionLimits(memory_bytes=48 * 1024**2))
    data = bytes(64 * 1024**2)
    report = await inspector.inspect(ArtifactKind.MODEL, chunks(data, 2**20))
    assert "expected it to finish" in report.problems[0].message


async def test_more_bytes_than_allowed_are_not_read() -> None:
    data = b" " * 200_000
    report = await Inspector().inspect(ArtifactKind.CONFIG, chunks(data))
    assert "found more" in report.problems[0].message


async def test_waiting_for_a_turn_ends() -> None:
    limits = InspectionLimits(parallel=1, queue_time_s=0.05, wall_time_s=10)
    inspector = Inspector(limits=limits)
    first = asyncio.create_task(
        inspector.inspect(
            ArtifactKind.CONFIG, chunks(ENDLESS_VALUES), schema=ENDLESS_SCHEMA
        )
    )
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequestsError):
        await inspector.inspect(ArtifactKind.CONFIG, chunks(b"{}"))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    report = await inspector.inspect(ArtifactKind.CONFIG, chunks(b"{}"))
    assert report.problems == ()


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"problems": [{}]}', b"\xff", b"[" * 5000]
)
def test_bytes_that_are_no_report_are_an_error(text: bytes) -> None:
    with pytest.raises(ReportError):
        Report.from_json(text)


async def test_an_inspection_that_nobody_waits_for_ends_by_itself() -> None:
    limits = InspectionLimits(cpu_time_s=1, wall_time_s=30)
    report = await Inspector(limits=limits).inspect(
        ArtifactKind.CONFIG, chunks(ENDLESS_VALUES), schema=ENDLESS_SCHEMA
    )
    assert report.problems[0].message.endswith("it ended by SIGKILL")
