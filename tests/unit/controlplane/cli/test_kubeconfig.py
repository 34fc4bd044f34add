# SPDX-License-Identifier: Apache-2.0
"""Which kubeconfig is used, and what in it is refused."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedge_controlplane.cli.kubeconfig import locate, read_endpoint
from kedge_controlplane.errors import InputError
from kedge_controlplane.trust.kubeconfig import write_kubeconfig

SERVER = "https://127.0.0.1:6443"


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, server=SERVER, ca_pem=b"PEM", token="secret")
    return path


def changed(path: Path, group: str, member: str, **changes: Any) -> Path:
    document = yaml.safe_load(path.read_text())
    document[group][0][member].update(changes)
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_servers_own_kubeconfig_is_understood(kubeconfig: Path) -> None:
    endpoint = read_endpoint(kubeconfig)
    assert (endpoint.server, endpoint.token) == (SERVER, "secret")
    assert (endpoint.ca_pem, endpoint.namespace) == ("PEM", "default")


def test_a_namespace_that_is_given_wins(kubeconfig: Path) -> None:
    assert read_endpoint(kubeconfig, namespace="prod").namespace == "prod"


def test_token_and_authority_can_be_files_beside_it(kubeconfig: Path) -> None:
    (kubeconfig.parent / "token").write_text("from a file\n")
    (kubeconfig.parent / "ca.pem").write_text("CA")
    changed(kubeconfig, "users", "user", tokenFile="token")
    changed(
        kubeconfig,
        "clusters",
        "cluster",
        **{"certificate-authority-data": "", "certificate-authority": "ca.pem"},
    )
    endpoint = read_endpoint(kubeconfig)
    assert (endpoint.token, endpoint.ca_pem) == ("from a file", "CA")


@pytest.mark.parametrize(
    ("group", "member", "changes", "found"),
    [
        ("clusters", "cluster", {"server": "http://x"}, "expected an https:// server"),
        ("clusters", "cluster", {"insecure-skip-tls-verify": True}, "insecure"),
        ("clusters", "cluster", {"certificate-authority-data": "%"}, "authority"),
        ("users", "user", {"token": ""}, "to have a token"),
        ("users", "user", {"tokenFile": "gone"}, "tokenFile"),
        ("contexts", "context", {"cluster": "other"}, "'other' among clusters"),
        ("contexts", "context", {"user": None}, "None among users"),
    ],
)
def test_what_would_leak_the_token_or_lack_one_is_refused(
    kubeconfig: Path, group: str, member: str, changes: dict[str, Any], found: str
) -> None:
    changed(kubeconfig, group, member, **changes)
    with pytest.raises(InputError, match=found):
        read_endpoint(kubeconfig)


@pytest.mark.parametrize(
    "text", ["", "[]", "kind: Config", "kind: Pod", ":", "{", "\x00"]
)
def test_what_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(InputError, match="expected a"):
        read_endpoint(path)


def test_the_first_file_of_a_list_that_exists_is_used(kubeconfig: Path) -> None:
    given = os.pathsep.join(["/nowhere/kubeconfig", str(kubeconfig)])
    assert locate(given) == kubeconfig


def test_the_folder_that_a_server_was_started_in_comes_before_kubectls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        locate(None)
    assert "kedge server" in caught.value.diagnostics()
    kubectls = tmp_path / ".kube" / "config"
    kubectls.parent.mkdir()
    kubectls.touch()
    assert locate(None) == kubectls
    ours = tmp_path / "kedge-data" / "kubeconfig"
    ours.parent.mkdir()
    ours.touch()
    assert locate(None).absolute() == ours
