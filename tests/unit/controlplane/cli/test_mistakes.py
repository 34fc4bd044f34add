# SPDX-License-Identifier: Apache-2.0
"""What operators get wrong is told in a sentence, never in a traceback."""

import stat
from pathlib import Path

import pytest
import yaml

from kedge_controlplane.cli.console import explain
from kedge_controlplane.cli.kubeconfig import locate
from kedge_controlplane.client import Client, Endpoint
from kedge_controlplane.errors import Cause, InvalidError, NotFoundError
from kedge_controlplane.model.registry import BY_KIND
from kedge_controlplane.store.tables import TOKENS
from kedge_controlplane.trust.kubeconfig import write_kubeconfig
from kedge_controlplane.trust.tokens import Purpose, new_token
from tests.unit.controlplane.cli.conftest import Kedge
from tests.unit.controlplane.cli.operator_api import OperatorApi

MODEL = """
apiVersion: kedge.dev/v1alpha1
kind: Model
metadata: {name: digits}
"""


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("enroll --out .", "the name of a file"),
        ("enroll --out /proc/foo/x", "/proc/foo/x"),
        ("enroll --out server/kedge.db/x", "server/kedge.db/x: expected its folder"),
        ("enroll --out gone/x", "expected its folder gone to be there"),
        ("kubeconfig --out gone/x", "expected its folder gone to be there"),
        ("enroll --out server/kubeconfig", "--force"),
        ("kubeconfig --out server/kubeconfig", "--force"),
        ("enroll --out x --server 127.0.0.1:8443", "--server: expected a URL"),
        ("enroll --out x --server http://a", "--server: expected a URL"),
        ("enroll --out x --server https://", "--server: expected a URL"),
        ("enroll --out x --server https://a:b", "--server: expected a URL"),
        ("enroll --out x --ttl 99999999999999h", "--ttl: expected at most 366 d"),
        ("kubeconfig --out .", "the name of a file"),
        ("kubeconfig --out server", "the name of a file"),
        ("rollout status x --timeout 99999999999999h", "--timeout: expected at most"),
        ("server --data /proc/foo", "--data: expected a folder"),
        ("migrate --data /proc/foo", "--data: expected a folder"),
        ("migrate --data gone", "expected a folder that `kedge server` made"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    kedge: Kedge, api: OperatorApi, command: str, found: str
) -> None:
    ran = kedge(*command.split())
    assert ran.code == 1
    assert found in ran.err
    assert not Path("gone").exists()


def test_a_token_that_another_server_gave_is_told_with_its_file(
    kedge: Kedge, api: OperatorApi, home: Path
) -> None:
    path = home / "server" / "kubeconfig"
    document = yaml.safe_load(path.read_text())
    document["users"][0]["user"]["token"] = new_token(Purpose.OPERATOR)
    path.write_text(yaml.safe_dump(document))
    (home / "many.yaml").write_text(f"{MODEL}---{MODEL}")
    for command in (
        "get devices",
        "apply -f many.yaml",
        "apply --dry-run -f many.yaml",
    ):
        ran = kedge(*command.split())
        server = document["clusters"][0]["cluster"]["server"]
        assert ran.code == 1
        assert ran.err.splitlines() == [
            f"Error: {server} refuses the token in {path}: token: unknown",
            "Use the kubeconfig in the data folder of that server.",
        ]


def test_a_server_that_does_not_answer_is_told_of_once(
    kedge: Kedge, home: Path
) -> None:
    write_kubeconfig(
        home / "kubeconfig", server="https://127.0.0.1:1", ca_pem=b"", token="x"
    )
    (home / "many.yaml").write_text(f"{MODEL}---{MODEL}---{MODEL}")
    for mode in ([], ["--dry-run"]):
        ran = kedge("--kubeconfig", "kubeconfig", "apply", "-f", "many.yaml", *mode)
        assert ran.code == 1
        assert ran.err.count("expected a Kedge API server") == 1


def test_a_refusal_of_what_has_no_name_says_each_cause_once() -> None:
    cause = Cause(reason="FieldValueInvalid", message="is wrong", field="spec.ttl")
    error = InvalidError("spec.ttl: is wrong", kind="enrollmenttokens", causes=[cause])
    assert explain(error).splitlines() == [
        "Error: enrollmenttokens is refused (Invalid):",
        "  spec.ttl: is wrong",
    ]


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
    (home / "data").mkdir()
    assert kedge("migrate", "--data", "data").code == 0
    mode = (home / "data" / "kedge.db").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
