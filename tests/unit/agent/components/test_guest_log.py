# SPDX-License-Identifier: Apache-2.0
"""What a component writes, in the device's log."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from kedge_agent.components.engine import ComponentEngine
from kedge_agent.components.pool import InstancePool
from kedge_agent.host.log import MAX_LINE_BYTES, MAX_LINES_PER_SECOND, GuestLog
from tests.unit.agent.components.guests import OK, guest


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def field(record: logging.LogRecord, name: str) -> Any:
    return record.__dict__[name]


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """Everything that reaches the log of components."""
    records: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger = logging.getLogger("kedge_agent.host.log")
    collector, level = Collector(), logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    yield records
    logger.setLevel(level)
    logger.removeHandler(collector)


def test_a_line_carries_level_tenant_and_workload(
    lines: list[logging.LogRecord],
) -> None:
    log = GuestLog(tenant="acme", workload="camera")

    log.write("warn", "dim light")

    (line,) = lines
    assert line.levelno == logging.WARNING
    # In the text too: plain log formats drop the fields.
    assert line.getMessage() == "guest: tenant=acme workload=camera: dim light"
    assert (field(line, "tenant"), field(line, "workload")) == ("acme", "camera")


def test_a_line_is_cut_and_stays_one_line(lines: list[logging.LogRecord]) -> None:
    log = GuestLog(tenant="acme", workload="camera")

    log.write("info", "a\nb\x1b[2J\x85\x9b\u2028" + "é" * MAX_LINE_BYTES)

    message = lines[0].getMessage().removeprefix("guest: tenant=acme workload=camera: ")
    assert message.startswith("a\\x0ab\\x1b[2J\\x85\\x9b\\u2028é")
    assert MAX_LINE_BYTES - 2 <= len(message.replace("\\x0a", "\n").encode()) <= 4200


def test_a_flood_is_dropped_and_counted(lines: list[logging.LogRecord]) -> None:
    clock = Clock()
    log = GuestLog(tenant="acme", workload="camera", clock=clock)

    for _ in range(MAX_LINES_PER_SECOND + 7):
        log.write("info", "again")
    assert len(lines) == MAX_LINES_PER_SECOND
    clock.now += 1
    log.write("info", "later")
    for _ in range(MAX_LINES_PER_SECOND):
        log.write("info", "again")
    log.close()

    dropped = [field(line, "dropped") for line in lines if hasattr(line, "dropped")]
    assert dropped == [7, 1]
    assert len(lines) == 2 * MAX_LINES_PER_SECOND + 2


async def test_a_component_writes_through_its_pool(
    engine: ComponentEngine, lines: list[logging.LogRecord]
) -> None:
    component = engine.compile(
        guest(health=f"(call $log (i32.const 4) (i32.const 256) (i32.const 6)) {OK}")
    )
    log = GuestLog(tenant="acme", workload="camera")
    pool = InstancePool(component, models={}, config="{}", log=log)
    await pool.start()
    await pool.health()
    await pool.close()

    assert [line.getMessage() for line in lines] == [
        "guest: tenant=acme workload=camera: guest!"
    ]
    assert lines[0].levelno == logging.ERROR
