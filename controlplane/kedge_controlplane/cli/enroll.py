# SPDX-License-Identifier: Apache-2.0
"""`kedge enroll`: the file with which a device joins.

It holds a one-time token and everything that the device trusts from then on: the
server's authority, the director's keys, the publishers' keys. Whoever has the file can
join once. Publishers are the operator's choice, not the server's: keys on this machine,
or keys named by their id, which is their hash. A server that lists a key of its own
cannot slip it in.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from securesystemslib.signer._key import SSlibKey

from kedge_controlplane.admission.publisher_keys import check_key, verification_key
from kedge_controlplane.cli.console import say
from kedge_controlplane.cli.keyring import Keyring, SigningKey
from kedge_controlplane.cli.keys import registered_keys
from kedge_controlplane.cli.options import Force, KeyDir, Kubeconfig, Namespace, connect
from kedge_controlplane.cli.target import check_target, write_target
from kedge_controlplane.client import Client, Document
from kedge_controlplane.errors import InputError
from kedge_controlplane.model.meta import API_VERSION
from kedge_controlplane.model.publisher import PublisherKey
from kedge_controlplane.model.quantity import parse_duration


def enroll(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Written with mode 0600.")],
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of the device; may be repeated."),
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long the token holds.")] = "1h",
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The API server as devices reach it. Default: the kubeconfig's.",
        ),
    ] = None,
    publisher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEYID",
            help="Whom the device trusts; may be repeated. "
            "Default: the keys on this machine.",
        ),
    ] = None,
    force: Force = False,
    key_dir: KeyDir = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Make an enrolment file for one device.

    It lets one device join, once, and says whom that device trusts: keep it private.

    Examples:
        kedge enroll --out camera-7.json --label site=berlin
        kedge-agent run --state-dir /var/lib/kedge --enrollment camera-7.json
    """
    check_target(out, force=force)
    if server is not None:
        _check_url(server)
    labels = dict(_label(text) for text in label or [])
    try:
        ttl_seconds = int(parse_duration(ttl).total_seconds())
    except ValueError as exc:
        raise InputError(f"--ttl: {exc}") from exc
    with connect(kubeconfig, namespace) as client:
        publishers: Sequence[SigningKey | SSlibKey] = (
            _named(client, publisher) if publisher else Keyring(key_dir).keys()
        )
        document = enrolment_file(
            client,
            labels=labels,
            ttl_seconds=ttl_seconds,
            publishers=publishers,
            server=server,
        )
    write_target(out, json.dumps(document, indent=2).encode() + b"\n", force=force)
    say(f"{out} written; one device can join with it within {ttl}")


def enrolment_file(
    client: Client,
    *,
    labels: dict[str, str],
    ttl_seconds: int,
    publishers: Sequence[SigningKey | SSlibKey],
    server: str | None = None,
) -> Document:
    """Ask for a token and put what a device needs beside it.

    Raises:
        InputError: There is no publisher, so the device could run nothing.
    """
    if not publishers:
        raise InputError(
            "expected a publisher's key, found none: the device would trust nobody",
            advice="Name keys with --publisher (`kedge keys list` shows their ids), "
            "or make one with `kedge keys init --register`.",
        )
    facts = client.facts()
    token = client.new_enrolment_token(labels=labels, ttl_seconds=ttl_seconds)
    return {
        "apiVersion": API_VERSION,
        "kind": "EnrolmentFile",
        "server": server or client.endpoint.server,
        "namespace": client.endpoint.namespace,
        "token": token["status"]["token"],
        "ca": client.endpoint.ca_pem,
        "gateway": facts["gateway"],
        "directorKeys": facts["directorKeys"],
        "publisherKeys": {
            client.endpoint.namespace: [_device_form(key) for key in publishers]
        },
    }


def _named(client: Client, keyids: Sequence[str]) -> list[SSlibKey]:
    """The keys of these ids; the server has them, the ids prove them."""
    registered = registered_keys(client)
    keys = []
    for keyid in keyids:
        document = registered.get(keyid)
        if document is None:
            raise InputError(
                f"--publisher: expected a registered key's id, found {keyid!r:.80}",
                advice="`kedge keys list` shows them.",
            )
        publisher = PublisherKey.model_validate(document)
        if problems := check_key(publisher):
            raise InputError(
                f"the server's publisherkey/{publisher.name} is not the key "
                f"{keyid}: {problems[0].message}"
            )
        keys.append(verification_key(publisher))
    return keys


def _device_form(key: SigningKey | SSlibKey) -> Document:
    public = key.signer.public_key if isinstance(key, SigningKey) else key
    return {"keyid": public.keyid, **public.to_dict()}


def _check_url(text: str) -> None:
    try:
        parts = urlsplit(text)
        valid = parts.scheme == "https" and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InputError(
            f"--server: expected a URL such as https://kedge.example.com:8443, "
            f"found {text!r:.200}"
        )


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"--label: expected KEY=VALUE, found {text!r:.80}")
    return key, value
