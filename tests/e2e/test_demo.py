# SPDX-License-Identifier: Apache-2.0
"""`kedge demo` as a stranger runs it: its figures, Ctrl-C and SIGKILL at any moment."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kedge_controlplane.cli.demo.digits import Digits
from tests.e2e.fleet import until

pytestmark = pytest.mark.xdist_group("e2e-demo")

KEDGE = (sys.executable, "-m", "kedge_controlplane")


def test_the_demo_moves_a_fleet_without_a_failed_or_wrong_answer() -> None:
    done = subprocess.run(
        [*KEDGE, "demo", "--devices", "3", "--json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    first, second = Digits.load().references
    assert set(report) == {
        *("devices", "images", "accuracy_v1", "accuracy_v2", "requests", "failed"),
        *("wrong", "swap_ms_p50", "swap_ms_p99", "seconds"),
    }
    assert (report["devices"], report["images"]) == (3, len(first.answers))
    assert (report["failed"], report["wrong"]) == (0, 0)
    assert report["accuracy_v1"] == first.accuracy
    assert report["accuracy_v2"] == second.accuracy
    assert report["requests"] > 3 * 2 * len(first.answers)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name
)
@pytest.mark.parametrize("after_s", [0.4, 3.0, 7.0, 12.0])
def test_a_demo_that_is_ended_leaves_no_process(
    tmp_path: Path, number: signal.Signals, after_s: float
) -> None:
    log = tmp_path / "demo.log"
    with log.open("wb") as output:
        demo = subprocess.Popen(
            [*KEDGE, "demo", "--devices", "2", "--keep"],
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            start_new_session=True,
        )
    threading.Event().wait(after_s)
    demo.send_signal(number)
    code = demo.wait(timeout=30)
    until(lambda: not processes_in(tmp_path), "all processes end", log=log)
    assert code in (130, 0, -signal.SIGINT, -signal.SIGKILL), log.read_text()
    if number is signal.SIGINT:
        assert "Traceback" not in log.read_text()


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes that were started with a path in the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(folder) in command:
                found.append(command)
    return found
