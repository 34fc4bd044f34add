# SPDX-License-Identifier: Apache-2.0
"""`kedge server` as a process: it says where it is, and ends when it is told to."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.controlplane.cli.conftest import Kedge

SERVER = [
    *(sys.executable, "-m", "kedge_controlplane", "server", "--data", "data"),
    *("--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0"),
]
STARTER = """
import os, subprocess, sys, time
subprocess.Popen([*sys.argv[1:], str(os.getpid())])
time.sleep(600)
"""


@pytest.fixture
def server(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A server that has said where it is."""
    with subprocess.Popen(
        SERVER, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("operator API   https://127.0.0.1:")
        yield process
        process.kill()


def test_a_server_serves_and_ends_when_it_is_told_to(
    kedge: Kedge, home: Path, server: subprocess.Popen[str]
) -> None:
    where = json.loads((home / "data" / "server.json").read_text())
    assert where["pid"] == server.pid
    ran = kedge("--kubeconfig", where["kubeconfig"], "version")
    assert f"({where['api']})" in ran.out
    server.send_signal(signal.SIGTERM)
    assert server.wait(20) == 0


def test_a_second_server_on_the_same_data_says_why_it_does_not_start(
    kedge: Kedge, server: subprocess.Popen[str]
) -> None:
    ran = kedge(*SERVER[3:])
    assert ran.code == 1
    assert "expected a folder that no server uses" in ran.err
    assert server.poll() is None


def test_a_server_can_end_with_its_starter(home: Path) -> None:
    command = [sys.executable, "-c", STARTER, *SERVER, "--die-with-parent"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline().startswith("operator API")
        os.kill(starter.pid, signal.SIGKILL)
        # The end of the pipe is the end of everybody who held it: starter and server.
        assert "operator API" not in starter.stdout.read()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--listen", "nowhere"], "--listen: expected an address host:port"),
        (["--gateway", "a:b"], "--gateway: expected an address host:port"),
        (["--hostname", "a b"], "--hostname: expected a host name"),
    ],
)
def test_a_wrong_address_is_named(
    kedge: Kedge, arguments: list[str], found: str
) -> None:
    ran = kedge("server", *arguments)
    assert (ran.code, found in ran.err) == (1, True)


def test_a_database_is_migrated_once(kedge: Kedge, home: Path) -> None:
    (home / "data").mkdir()
    assert "migrated from nothing" in kedge("migrate", "--data", "data").out
    assert "unchanged" in kedge("migrate", "--data", "data").out
