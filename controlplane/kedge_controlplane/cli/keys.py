# SPDX-License-Identifier: Apache-2.0
"""`kedge keys`: a publisher's keys here, and which of them the server believes."""

from typing import Annotated

import typer

from kedge_controlplane.cli.console import say, table
from kedge_controlplane.cli.keyring import DEFAULT_NAME, Keyring, SigningKey
from kedge_controlplane.cli.options import KeyDir, Kubeconfig, Namespace, connect
from kedge_controlplane.client import Client, Document
from kedge_controlplane.model.registry import BY_KIND

keys = typer.Typer(
    no_args_is_help=True,
    help="Make publisher keys, and tell the server to believe them.",
)

KeyName = Annotated[
    str | None, typer.Option("--key", metavar="NAME", help="Default: the only one.")
]


@keys.command("init")
def init(
    *,
    name: Annotated[str, typer.Option(help="What the key goes by.")] = DEFAULT_NAME,
    register: Annotated[
        bool, typer.Option("--register", help="Also register its public half.")
    ] = False,
    key_dir: KeyDir = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Make an ed25519 key.

    The private half stays in a file on this machine; --register sends the public one.

    Examples:
        kedge keys init --register
        kedge keys init --name release --key-dir /media/stick
    """
    key, created = Keyring(key_dir).create(name)
    say(f"key {key.name} {'created' if created else 'unchanged'} ({key.path})")
    say(f"  id {key.keyid}")
    if register:
        with connect(kubeconfig, namespace) as client:
            _register(client, key)


@keys.command("register")
def register_key(
    *,
    key: KeyName = None,
    key_dir: KeyDir = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Let the namespace believe what a key signs.

    Sends the public half only.

    Examples:
        kedge keys register
        kedge keys register --key release -n production
    """
    signing_key = Keyring(key_dir).choose(key)
    with connect(kubeconfig, namespace) as client:
        _register(client, signing_key)


@keys.command("list")
def list_keys(
    *,
    key_dir: KeyDir = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """List keys.

    Those on this machine, and those that the namespace believes.

    Examples:
        kedge keys list
    """
    here = Keyring(key_dir).keys()
    local = {key.keyid: key for key in here}
    with connect(kubeconfig, namespace) as client:
        registered = registered_keys(client)
    rows = [["NAME", "KEYID", "HERE", "REGISTERED"]]
    for keyid in sorted({*local, *registered}):
        name = local[keyid].name if keyid in local else ""
        object_name = (
            registered[keyid]["metadata"]["name"] if keyid in registered else ""
        )
        is_here = "yes" if keyid in local else "no"
        rows.append([name or object_name, keyid, is_here, object_name or "no"])
    say(table(rows))


def registered_keys(client: Client) -> dict[str, Document]:
    """The namespace's PublisherKeys by key id."""
    documents, _ = client.list(BY_KIND["PublisherKey"])
    return {document["spec"]["keyid"]: document for document in documents}


def _register(client: Client, key: SigningKey) -> None:
    document = key.to_object()
    known = registered_keys(client).get(key.keyid)
    if known is not None:
        say(f"publisherkey/{known['metadata']['name']} unchanged")
        return
    client.create(BY_KIND["PublisherKey"], document)
    say(f"publisherkey/{document['metadata']['name']} created")
