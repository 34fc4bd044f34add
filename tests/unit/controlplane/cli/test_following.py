# SPDX-License-Identifier: Apache-2.0
"""Commands that wait: rollout status and get --watch."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kedge_controlplane.cli import get
from kedge_controlplane.cli.kubeconfig import locate, read_endpoint
from kedge_controlplane.client import Client
from kedge_controlplane.errors import InputError
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.model.registry import BY_KIND
from kedge_controlplane.model.rollout import Rollout
from tests.unit.controlplane.cli.conftest import Kedge
from tests.unit.controlplane.cli.operator_api import OperatorApi


def write_rollout(api: OperatorApi, phase: str, **status: Any) -> None:
    """What the fleet's controller writes."""
    metadata = {"name": "digits-1", "namespace": "default"}
    rollout = Rollout.model_validate(
        {
            "metadata": metadata,
            "spec": {"fleet": "digits", "templateVersion": "digits-abc"},
            "status": {"phase": phase, **status},
        }
    )

    async def write() -> None:
        stored = await api.store.create(rollout)
        stored.status = rollout.status
        await api.store.update_status(stored)

    api.call(write())


def write_fleet(api: OperatorApi, *, observed: int) -> None:
    fleet = Fleet.model_validate(
        {
            "metadata": {"name": "digits", "namespace": "default"},
            "spec": {"selector": {}, "template": {"spec": {"release": "digits-1"}}},
        }
    )

    async def write() -> None:
        stored = await api.store.create(fleet)
        stored.status.observed_generation = observed
        stored.status.rollout = "digits-1"
        stored.status.template_version = "digits-abc"
        await api.store.update_status(stored)

    api.call(write())


@pytest.mark.parametrize(
    ("phase", "code"),
    [("Progressing", 0), ("Completed", 0), ("Paused", 1), ("Aborted", 1)],
)
def test_the_exit_status_says_whether_a_rollout_is_well(
    kedge: Kedge, api: OperatorApi, phase: str, code: int
) -> None:
    write_fleet(api, observed=1)
    write_rollout(api, phase, message="a reason")
    by_fleet, by_rollout = (
        kedge("rollout", "status", name) for name in ("digits", "digits-1")
    )
    assert by_fleet == by_rollout
    assert by_fleet.code == code
    assert f"rollout digits-1: {phase}: a reason" in by_fleet.out


def test_waiting_ends_when_the_rollout_does(kedge: Kedge, api: OperatorApi) -> None:
    write_fleet(api, observed=1)
    write_rollout(api, "Completed")
    ran = kedge("rollout", "status", "digits", "--watch")
    assert (ran.code, ran.out) == (0, "rollout digits-1: Completed\n")


def test_waiting_ends_when_the_time_is_over(kedge: Kedge, api: OperatorApi) -> None:
    write_fleet(api, observed=0)
    write_rollout(api, "Completed")
    ran = kedge("rollout", "status", "digits", "--watch", "--timeout", "10ms")
    assert ran.code == 1
    assert ran.out == "fleet digits: waiting for generation 1 to be seen\n"
    assert "to finish within 10ms" in ran.err


def test_a_rollout_that_is_not_there_is_an_error(
    kedge: Kedge, api: OperatorApi
) -> None:
    ran = kedge("rollout", "status", "letters")
    assert (ran.code, "no" in ran.err, "letters" in ran.err) == (1, True, True)


@pytest.fixture
def watching(api: OperatorApi) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "kedge_controlplane", "get", "devices", "--watch"]
    process = subprocess.Popen(
        [*command, "-o", "name"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    with process:
        yield process
        process.kill()


def new_device(api: OperatorApi, name: str) -> None:
    metadata = {"name": name, "namespace": "default"}
    device = Device(metadata=ObjectMeta.model_validate(metadata))
    api.call(api.store.create(device))


def test_watching_shows_what_is_there_and_then_what_changes(
    api: OperatorApi, watching: subprocess.Popen[str]
) -> None:
    assert watching.stdout is not None
    new_device(api, "d-1")
    assert watching.stdout.readline() == "device/d-1\n"
    new_device(api, "d-2")
    assert watching.stdout.readline() == "device/d-2\n"
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) != 0


def test_watching_one_object_begins_where_the_server_is(
    kedge: Kedge, api: OperatorApi
) -> None:
    """Its own resourceVersion is older than the log of a server that restarted."""
    new_device(api, "d-1")
    new_device(api, "d-2")
    api.store._log._oldest = 2
    with Client(read_endpoint(locate(os.environ["KUBECONFIG"]))) as client:
        kind = BY_KIND["Device"]
        documents, revision = get._read(client, kind, "d-1", "")
        assert [d["metadata"]["name"] for d in documents] == ["d-1"]
        events = client.watch(kind, since=revision, name="d-1")
        new_device(api, "d-3")
        api.call(api.store.delete(Device, "default", "d-1"))
        event = next(events)
    assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "d-1")
    assert kedge("get", "device", "d-4", "-w").code == 1


def test_a_watch_that_cannot_keep_up_pauses_between_lists(
    kedge: Kedge, api: OperatorApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_device(api, "d-1")
    pauses: list[float] = []

    def stop(seconds: float) -> None:
        pauses.append(seconds)
        raise InputError("enough")

    monkeypatch.setattr("time.sleep", stop)
    api.store._log._oldest = 99
    assert kedge("get", "device", "d-1", "-w").code == 1
    assert pauses == [get.GONE_PAUSE_S]


def test_another_authority_than_the_servers_is_not_believed(
    kedge: Kedge, api: OperatorApi, home: Path
) -> None:
    from tests.unit.controlplane.cli.operator_api import running_api

    other = home / "other"
    other.mkdir()
    with running_api(other):
        ours = (home / "server" / "kubeconfig").read_text().splitlines()
        theirs = (other / "kubeconfig").read_text().splitlines()
    mixed = [
        theirs[at] if "certificate-authority-data" in line else line
        for at, line in enumerate(ours)
    ]
    (home / "mixed").write_text("\n".join(mixed))
    ran = kedge("get", "devices", "--kubeconfig", "mixed")
    assert ran.code == 1
    assert "the server's authority is not the one in this kubeconfig" in ran.err
    assert "_ssl.c" not in ran.err
    assert "mixed" in ran.err


def test_an_authority_that_is_no_certificate_is_refused(
    kedge: Kedge, api: OperatorApi, home: Path
) -> None:
    lines = (home / "server" / "kubeconfig").read_text().splitlines()
    broken = [
        line.split(":")[0] + ": Z2FyYmFnZQ==" if "authority-data" in line else line
        for line in lines
    ]
    (home / "broken").write_text("\n".join(broken))
    ran = kedge("get", "devices", "--kubeconfig", "broken")
    assert (ran.code, "in PEM" in ran.err) == (1, True)
    assert InputError.__name__ not in ran.err


@pytest.mark.parametrize(
    "command",
    [
        "--kubeconfig typed get devices",
        "get devices --kubeconfig typed",
        "--kubeconfig wrong get devices --kubeconfig typed",
        "-n default get devices --kubeconfig typed",
    ],
)
def test_what_was_typed_wins_over_the_environment(
    kedge: Kedge,
    api: OperatorApi,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    (home / "server" / "kubeconfig").rename(home / "typed")
    monkeypatch.setenv("KUBECONFIG", str(home / "nothing"))
    assert kedge(*command.split()).code == 0
    assert kedge("get", "devices").code == 1
