# SPDX-License-Identifier: Apache-2.0
"""The commands against the real API: what operators type, what they read."""

import json
import stat
from pathlib import Path

import pytest
import yaml

from kedge_controlplane.cli.app import app
from kedge_controlplane.cli.apply import LAST_APPLIED
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.model.publisher import PublisherKey
from tests.unit.controlplane.admission.publisher import (
    COMPONENT,
    CONFIG,
    Publisher,
    image_model,
)
from tests.unit.controlplane.cli.conftest import Kedge
from tests.unit.controlplane.cli.operator_api import OperatorApi

RELEASE = """
apiVersion: kedge.dev/v1alpha1
kind: Release
metadata: {name: digits-1}
spec:
  workloads:
  - {name: digits, component: image-classifier-0.1.0, model: digits-1, config: digits-1}
"""
FLEET = """
apiVersion: kedge.dev/v1alpha1
kind: Fleet
metadata: {name: digits, labels: {team: vision}}
spec:
  selector: {matchLabels: {app: digits}}
  template: {spec: {release: digits-1}}
"""


@pytest.fixture
def files(home: Path) -> Path:
    (home / "classifier.wasm").write_bytes(COMPONENT)
    (home / "digits.onnx").write_bytes(image_model())
    (home / "config.json").write_text(json.dumps(CONFIG))
    (home / "fleet.yaml").write_text(f"{FLEET}---{RELEASE}")
    return home


@pytest.fixture
def pushed(kedge: Kedge, api: OperatorApi, files: Path) -> Path:
    """A registered key, and every version that the release names."""
    for command in (
        "keys init --register",
        "push component classifier.wasm",
        "push model digits.onnx --name digits --version 1",
        "push config config.json --name digits --version 1",
    ):
        ran = kedge(*command.split())
        assert ran.code == 0, ran.err
    return files


def test_every_command_explains_itself_with_an_example(kedge: Kedge) -> None:
    groups = {"push": ["component", "model", "config"], "rollout": ["status"]}
    groups["keys"] = ["init", "register", "list"]
    for info in app.registered_commands:
        assert info.callback is not None
        groups.setdefault(info.name or info.callback.__name__, [])
    for name, below in groups.items():
        for path in [[name, sub] for sub in below] or [[name]]:
            ran = kedge(*path, "--help")
            assert ran.code == 0, ran.err
            assert f"kedge {' '.join(path)}" in ran.out.split("Examples", 1)[-1], path


@pytest.mark.parametrize(
    "command", ["frobnicate", "get", "push model x.onnx", "apply", "get fleets -o xml"]
)
def test_what_is_not_understood_ends_with_two(kedge: Kedge, command: str) -> None:
    ran = kedge(*command.split())
    assert ran.code == 2
    assert "kedge" in ran.err


def test_a_key_is_made_and_registered_and_its_private_half_stays(
    kedge: Kedge, api: OperatorApi, home: Path
) -> None:
    ran = kedge("keys", "init", "--register")
    assert ran.code == 0
    (path,) = (home / ".config/kedge/keys").glob("*.pem")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (registered,) = api.call(api.store.list(PublisherKey)).items
    assert registered.spec.keyid in ran.out
    secret = path.read_text().splitlines()[1]
    assert secret not in registered.model_dump_json()
    again = kedge("keys", "init", "--register")
    assert (again.code, again.out.count("unchanged")) == (0, 2)
    listed = kedge("keys", "list").out.splitlines()[1].split()
    assert listed == ["publisher", registered.spec.keyid, "yes", registered.name]


@pytest.mark.usefixtures("pushed")
def test_what_was_pushed_is_there_and_pushing_again_changes_nothing(
    kedge: Kedge, api: OperatorApi
) -> None:
    assert kedge("get", "mv", "-o", "name").out == "modelversion/digits-1\n"
    assert kedge("get", "models", "-o", "name").out == "model/digits\n"
    names = kedge("get", "componentversions", "-o", "name").out
    assert names == "componentversion/image-classifier-0.1.0\n"
    before = kedge("get", "mv", "digits-1", "-o", "json").out
    again = kedge("push", "model", "digits.onnx", "--name", "digits", "--version", "1")
    assert again.out.startswith("modelversion/digits-1 unchanged")
    assert "uploading" not in again.err
    assert kedge("get", "mv", "digits-1", "-o", "json").out == before


def test_a_version_never_changes_its_content(kedge: Kedge, pushed: Path) -> None:
    (pushed / "digits.onnx").write_bytes(image_model(name="picture"))
    ran = kedge("push", "model", "digits.onnx", "--name", "digits", "--version", "1")
    assert ran.code == 1
    assert "digits-1 exists with other content (artifact, inputs)" in ran.err
    assert "another --version" in ran.err
    ran = kedge("push", "model", "digits.onnx", "--name", "digits", "--version", "2")
    assert ran.code == 0


def test_other_labels_are_other_content(kedge: Kedge, pushed: Path) -> None:
    (pushed / "labels.txt").write_text("zero\none\n")
    model = ["push", "model", "digits.onnx", "--name", "digits"]
    ran = kedge(*model, "--version", "1", "--labels", "labels.txt")
    assert (ran.code, "(labels). A version" in ran.err) == (1, True)
    assert "digest" not in ran.err
    assert kedge(*model, "--version", "2", "--labels", "labels.txt").code == 0
    document = json.loads(kedge("get", "mv", "digits-2", "-o", "json").out)
    assert document["spec"]["labels"] == ["zero", "one"]


def test_an_interrupted_push_goes_on_without_sending_again(
    kedge: Kedge, api: OperatorApi, pushed: Path
) -> None:
    assert kedge("delete", "mv", "digits-1").code == 0
    ran = kedge("push", "model", "digits.onnx", "--name", "digits", "--version", "1")
    assert ran.out.startswith("modelversion/digits-1 created")
    assert "uploading" not in ran.err


def test_a_key_that_nobody_registered_publishes_nothing(
    kedge: Kedge, api: OperatorApi, files: Path
) -> None:
    model = ["push", "model", "digits.onnx", "--name", "digits", "--version", "1"]
    ran = kedge(*model)
    assert (ran.code, "kedge keys init --register" in ran.err) == (1, True)
    kedge("keys", "init")
    ran = kedge(*model)
    assert (ran.code, "kedge keys register --key publisher" in ran.err) == (1, True)
    assert not api.blobs._blobs


@pytest.mark.parametrize(
    ("kind", "data", "found"),
    [
        ("component", b"text", "expected WebAssembly"),
        ("component", COMPONENT[:900], "expected a valid component"),
        ("model", image_model()[:-9], "expected an ONNX file"),
        ("model", b"", "expected 1 to"),
        ("config", b'{"a": 1, "a": 2}', "member 'a' is there twice"),
        ("config", b"[]", "expected a JSON object"),
    ],
)
def test_a_bad_file_is_refused_before_anything_is_sent(
    kedge: Kedge, home: Path, kind: str, data: bytes, found: str
) -> None:
    kedge("keys", "init")
    (home / "bad").write_bytes(data)
    (home / "kubeconfig").write_text(
        "kind: Config\ncurrent-context: a\n"
        "contexts: [{name: a, context: {cluster: a, user: a}}]\n"
        "clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\n"
        "users: [{name: a, user: {token: x}}]\n"
    )
    ran = kedge(
        *f"--kubeconfig kubeconfig push {kind} bad --name n --version 1".split()
    )
    assert ran.code == 1
    assert f"bad: not a {kind} to publish" in ran.err
    assert found in ran.err


def test_a_config_that_violates_its_schema_names_the_member(
    kedge: Kedge, api: OperatorApi, files: Path
) -> None:
    kedge("keys", "init", "--register")
    schema = {"properties": {"width": {"type": "string"}}}
    (files / "schema.json").write_text(json.dumps(schema))
    config = ["push", "config", "config.json", "--name", "digits", "--version", "1"]
    ran = kedge(*config, "--schema", "schema.json")
    assert ran.code == 1
    assert "  width: 8 is not of type 'string'" in ran.err


def test_apply_says_what_it_did_to_each_object(kedge: Kedge, pushed: Path) -> None:
    ran = kedge("apply", "-f", "fleet.yaml", "--dry-run")
    assert (ran.code, ran.out.splitlines()) == (
        0,
        [
            "release/digits-1 created (dry run)",
            (
                "fleet/digits: depends on release/digits-1 of this run; "
                "cannot be checked in a dry run"
            ),
        ],
    )
    ran = kedge("apply", "-f", "fleet.yaml")
    assert ran.out.splitlines() == ["release/digits-1 created", "fleet/digits created"]
    ran = kedge("apply", "-f", "fleet.yaml")
    assert ran.out.splitlines() == [
        "release/digits-1 unchanged",
        "fleet/digits unchanged",
    ]
    fleet = json.loads(kedge("get", "fleet", "digits", "-o", "json").out)
    noted = fleet["metadata"]["annotations"][LAST_APPLIED]
    assert noted.startswith('{"apiVersion":"kedge.dev/v1alpha1","kind":"Fleet",')
    assert '"metadata":{"annotations":{},"labels":{"team":"vision"}' in noted
    assert noted.endswith("}\n")  # kubectl's form, so that both can be used in turn
    changed = FLEET.replace("{app: digits}", "{app: other}").replace("team", "squad")
    (pushed / "fleet.yaml").write_text(changed)
    assert kedge("apply", "-f", "fleet.yaml").out == "fleet/digits configured\n"
    document = yaml.safe_load(kedge("get", "fleet/digits", "-o", "yaml").out)
    assert document["spec"]["selector"]["matchLabels"] == {"app": "other"}
    assert document["metadata"]["labels"] == {"squad": "vision"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FLEET.replace("release:", "releese:"), "spec.template.spec.releese: unknown"),
        (FLEET + "  paused: true", "spec.paused: unknown field"),
        (FLEET.replace("digits-1", "[1]"), "spec.template.spec.release"),
        (FLEET.replace("digits-1", "gone-1"), "no 'gone-1'"),
        (RELEASE, "spec.workloads[0].model: expected a ModelVersion in default"),
        (FLEET.replace("Fleet", "Flet"), "expected a kind, found 'Flet'"),
        (FLEET.replace("v1alpha1", "v2"), "apiVersion: expected kedge.dev/v1alpha1"),
        (FLEET.replace("{name: digits,", "{namespace: x, name: a,"), "-n x"),
        (FLEET.replace("name: digits,", ""), "metadata.name: expected a name"),
    ],
)
def test_a_wrong_manifest_names_the_field(
    kedge: Kedge, api: OperatorApi, home: Path, text: str, expected: str
) -> None:
    (home / "bad.yaml").write_text(text)
    ran = kedge("apply", "-f", "bad.yaml")
    assert ran.code == 1
    assert expected in ran.err
    assert ran.err.startswith("bad.yaml: Error: ")


def test_one_wrong_manifest_does_not_stop_the_others(
    kedge: Kedge, pushed: Path
) -> None:
    (pushed / "many.yaml").write_text(
        "---".join([FLEET.replace("digits-1", "gone-1"), RELEASE])
    )
    ran = kedge("apply", "-f", "many.yaml")
    assert (ran.code, ran.out) == (1, "release/digits-1 created\n")
    assert ran.err.count("Error") == 1


def test_a_dry_run_still_fails_for_what_the_run_would_not_make(
    kedge: Kedge, pushed: Path
) -> None:
    other = RELEASE.replace("{name: digits-1}", "{name: digits-2}")
    (pushed / "other.yaml").write_text(f"{FLEET}---{other}")
    ran = kedge("apply", "--dry-run", "-f", "other.yaml")
    assert (ran.code, ran.out) == (1, "release/digits-2 created (dry run)\n")
    assert "no 'digits-1'" in ran.err


@pytest.mark.parametrize("given", [[], ["-f", "fleet.yaml"]])
def test_a_manifest_without_its_option_is_answered_with_it(
    kedge: Kedge, home: Path, given: list[str]
) -> None:
    ran = kedge("apply", *given, "other.yaml")
    assert (ran.code, "kedge apply -f other.yaml" in ran.err) == (2, True)


def test_a_version_cannot_be_edited_by_apply(kedge: Kedge, pushed: Path) -> None:
    kedge("apply", "-f", "fleet.yaml")
    (pushed / "release.yaml").write_text(RELEASE.replace("name: digits,", "name: x,"))
    ran = kedge("apply", "-f", "release.yaml")
    assert (ran.code, "field is immutable" in ran.err) == (1, True)


@pytest.fixture
def devices(api: OperatorApi) -> None:
    for name, site in (("d-1", "berlin"), ("d-2", "oslo")):
        labels = {"site": site}
        metadata = {"name": name, "namespace": "default", "labels": labels}
        device = Device(metadata=ObjectMeta.model_validate(metadata))
        api.call(api.store.create(device))


@pytest.mark.usefixtures("devices")
def test_objects_are_shown_as_asked(kedge: Kedge) -> None:
    table = kedge("get", "devices").out.splitlines()
    assert table[0].split() == [
        "NAME", "STATUS", "UPDATED", "MODEL", "FLEET", "AGE",
    ]  # fmt: skip
    assert [line.split()[0] for line in table[1:]] == ["d-1", "d-2"]
    wide = kedge("get", "dev", "-o", "wide").out
    assert ("SERVING" in wide, "HOSTNAME" in wide) == (True, True)
    assert kedge("get", "dev", "-l", "site=oslo", "-o", "name").out == "device/d-2\n"
    assert json.loads(kedge("get", "Device/d-1", "-o", "json").out)["kind"] == "Device"
    items = json.loads(kedge("get", "devices", "-o", "json").out)["items"]
    assert [item["metadata"]["name"] for item in items] == ["d-1", "d-2"]
    none = kedge("-n", "elsewhere", "get", "devices")
    assert (none.out, none.code) == ("", 0)
    assert none.err == "No devices in namespace elsewhere.\n"


@pytest.mark.usefixtures("devices")
def test_what_is_not_there_is_an_error(kedge: Kedge) -> None:
    ran = kedge("get", "device", "d-3")
    assert (ran.code, "d-3" in ran.err) == (1, True)
    ran = kedge("delete", "device", "d-3", "d-1")
    assert (ran.code, ran.out) == (1, "device/d-1 deleted\n")
    ran = kedge("delete", "device", "d-1", "--ignore-not-found")
    assert (ran.code, ran.out) == (0, "")
    ran = kedge("get", "gadgets")
    assert "Kinds: devices (dev)" in ran.err


def test_an_enrolment_file_holds_what_a_device_needs(
    kedge: Kedge, api: OperatorApi, home: Path
) -> None:
    enroll = ["enroll", "--out", "d.json", "--label", "site=berlin", "--ttl", "10m"]
    ran = kedge(*enroll)
    assert (ran.code, "would trust nobody" in ran.err) == (1, True)
    kedge("keys", "init")
    assert kedge(*enroll).code == 0
    path = home / "d.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = json.loads(path.read_text())
    assert document["token"].startswith("kedge_enrolment_")
    assert document["server"].startswith("https://127.0.0.1:")
    assert document["gateway"] == "127.0.0.1:1"
    assert document["ca"].startswith("-----BEGIN CERTIFICATE-----")
    assert document["directorKeys"] == api.director.public_keys
    (key,) = document["publisherKeys"]["default"]
    assert set(key) == {"keyid", "keytype", "scheme", "keyval"}
    assert kedge("enroll", "--out", "e.json", "--label", "site").code == 1
    assert kedge("enroll", "--out", "e.json", "--label", "a=b c").code == 1
    assert kedge("enroll", "--out", "e.json", "--ttl", "soon").code == 1


def test_a_device_trusts_no_key_that_only_the_server_chose(
    kedge: Kedge, api: OperatorApi, home: Path
) -> None:
    stranger = Publisher().key()
    api.call(api.store.create(stranger))
    kedge("keys", "init")
    kedge("enroll", "--out", "d.json")
    (key,) = json.loads((home / "d.json").read_text())["publisherKeys"]["default"]
    assert key["keyid"] != stranger.spec.keyid
    kedge("enroll", "--out", "e.json", "--publisher", stranger.spec.keyid)
    (key,) = json.loads((home / "e.json").read_text())["publisherKeys"]["default"]
    assert key["keyid"] == stranger.spec.keyid


def test_a_key_that_is_not_what_its_id_says_is_not_trusted(
    kedge: Kedge, api: OperatorApi, home: Path
) -> None:
    honest, rogue = Publisher().key(), Publisher().key()
    rogue.spec.keyid = honest.spec.keyid
    api.call(api.store.create(rogue))
    ran = kedge("enroll", "--out", "d.json", "--publisher", honest.spec.keyid)
    assert (ran.code, "is not the key" in ran.err) == (1, True)
    assert not (home / "d.json").exists()


def test_versions_and_the_kubeconfig_are_shown(
    kedge: Kedge, api: OperatorApi, home: Path
) -> None:
    assert "server 9.9.9" in kedge("version").out
    assert kedge("--version") == kedge("version")
    assert kedge("kubeconfig").out.strip() == str(home / "server" / "kubeconfig")
    assert kedge("kubeconfig", "--out", "copy").code == 0
    copy = home / "copy"
    assert copy.read_bytes() == (home / "server" / "kubeconfig").read_bytes()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    copy.write_text("other")
    assert kedge("kubeconfig", "--out", "copy").code == 1
    assert copy.read_text() == "other"
    assert kedge("kubeconfig", "--out", "copy", "--force").code == 0
    assert copy.read_bytes() == (home / "server" / "kubeconfig").read_bytes()


def test_without_a_server_every_command_says_what_to_do(
    kedge: Kedge, home: Path
) -> None:
    ran = kedge("get", "fleets")
    assert (ran.code, "kedge server" in ran.err) == (1, True)
    assert "server unknown" in kedge("version").out
    assert kedge("version", "--client").code == 0
