# SPDX-License-Identifier: Apache-2.0
"""What operators get wrong is told in a sentence, never in a traceback."""

import stat
from pathlib import Path

import pytest
import yaml

from kedge_controlplane.cli.kubeconfig import locate
from kedge_controlplane.client import Client, Endpoint
from kedge_controlplane.errors import NotFoundError
from kedge_controlplane.model.registry import BY_KIND
from kedge_controlplane.store.tables import TOKENS
from tests.unit.controlplane.cli.conftest import Kedge
from tests.unit.controlplane.cli.operator_api import OperatorApi


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("enroll --out .", "the name of a file"),
        ("enroll --out /proc/foo/x", "/proc/foo/x"),
        ("enroll --out server/kedge.db/x", "server/kedge.db/x: File exists"),
        ("enroll --out x --ttl 99999999999999h", "--ttl: expected at most 366 d"),
        ("kubeconfig --out .", "the name of a file"),
        ("kubeconfig --out server", "the name of a file"),
        ("rollout status x --timeout 99999999999999h", "--timeout: expected at most"),
        ("server --data /proc/foo", "--data: expected a folder"),
        ("migrate --data /proc/foo", "--data: expected a folder"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    kedge: Kedge, api: OperatorApi, command: str, found: str
) -> None:
    ran = kedge(*command.split())
    assert ran.code == 1
    assert found in ran.err


def test_a_file_that_cannot_be_written_costs_no_token(
    kedge: Kedge, api: OperatorApi
) -> None:
    kedge("keys", "init", "--register")
    before = api.call(api.store.fetch(TOKENS.select()))
    assert kedge("enroll", "--out", ".").code == 1
    assert api.call(api.store.fetch(TOKENS.select())) == before


@pytest.mark.parametrize(
    ("group", "member", "key", "value", "found"),
    [
        ("clusters", "cluster", "server", "https://127.0.0.1:x", "expected URLs"),
        ("clusters", "cluster", "proxy-url", "ftp://x", "expected URLs"),
        ("users", "user", "token", "k\u00e9dge", "printable ASCII"),
        ("users", "user", "token", "a\nb", "printable ASCII"),
    ],
)
def test_a_kubeconfig_that_nobody_can_use_is_refused(
    kedge: Kedge, api: OperatorApi, group: str, member: str, key: str, value: str,
    found: str,
) -> None:  # fmt: skip
    path = locate("server/kubeconfig")
    document = yaml.safe_load(path.read_text())
    document[group][0][member][key] = value
    path.write_text(yaml.safe_dump(document))
    ran = kedge("get", "devices")
    assert (ran.code, found in ran.err) == (1, True), ran.err


def test_a_name_is_never_a_query(api: OperatorApi, home: Path) -> None:
    cluster = yaml.safe_load((home / "server" / "kubeconfig").read_text())
    endpoint = Endpoint(
        server=cluster["clusters"][0]["cluster"]["server"],
        token=cluster["users"][0]["user"]["token"],
        ca_pem=(home / "server" / "trust" / "ca.pem").read_text(),
    )
    with Client(endpoint) as client:
        model = {"metadata": {"name": "x"}}
        client.create(BY_KIND["Model"], model)
        for name in ("x?dryRun=All", "../models/x", "x#y"):
            with pytest.raises(NotFoundError):
                client.delete(BY_KIND["Model"], name)
        assert client.find(BY_KIND["Model"], "x") is not None


def test_a_new_database_is_for_its_owner_only(kedge: Kedge, home: Path) -> None:
    assert kedge("migrate", "--data", "data").code == 0
    mode = (home / "data" / "kedge.db").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
