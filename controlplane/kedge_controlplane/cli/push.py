# SPDX-License-Identifier: Apache-2.0
"""`kedge push`: publish components, models and configuration."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from kedge_controlplane.cli.console import amount, complain, say
from kedge_controlplane.cli.keyring import Keyring
from kedge_controlplane.cli.keys import KeyName
from kedge_controlplane.cli.options import KeyDir, Kubeconfig, Namespace, connect
from kedge_controlplane.cli.publish import (
    Artifact,
    describe,
    ensure_parent,
    publish,
    sign,
)
from kedge_controlplane.errors import InputError
from kedge_controlplane.inspection.config import (
    MAX_SCHEMA_BYTES,
    ConfigError,
    read_object,
)
from kedge_controlplane.inspection.limits import MAX_BYTES
from kedge_controlplane.model.registry import kind_of
from kedge_wire.statement import MAX_STATEMENT_BYTES, ArtifactKind

push = typer.Typer(
    no_args_is_help=True,
    help="Sign and publish a version of a component, model or configuration.",
)

File = Annotated[Path, typer.Argument(metavar="FILE")]
Name = Annotated[str, typer.Option(help="What it is a version of.")]
Version = Annotated[str, typer.Option(help="Never changes its content.")]


@push.command("component")
def push_component(
    file: File,
    *,
    name: Annotated[
        str | None, typer.Option(help="Default: what the component says.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Default: what the component says.")
    ] = None,
    key: KeyName = None,
    key_dir: KeyDir = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Publish a WebAssembly component of world kedge:ai/model.

    Checked here first. What is there already is not sent again.

    Examples:
        kedge push component image-classifier.wasm
        kedge push component image-classifier.wasm --name classifier --version 2
    """
    kind = ArtifactKind.COMPONENT
    artifact = Artifact(
        kind=kind,
        source=str(file),
        data=_read(file, MAX_BYTES[kind]),
        name=name,
        version=version,
    )
    _push(artifact, key, key_dir, kubeconfig, namespace)


@push.command("model")
def push_model(
    file: File,
    *,
    name: Name,
    version: Version,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of the classes, one a line."),
    ] = None,
    key: KeyName = None,
    key_dir: KeyDir = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Publish an ONNX model.

    Checked here first. What is there already is not sent again.

    Examples:
        kedge push model digits.onnx --name digits --version 1
        kedge push model digits.onnx --name digits --version 2 --labels labels.txt
    """
    kind = ArtifactKind.MODEL
    artifact = Artifact(
        kind=kind,
        source=str(file),
        data=_read(file, MAX_BYTES[kind]),
        name=name,
        version=version,
        labels=_labels(labels) if labels is not None else (),
    )
    _push(artifact, key, key_dir, kubeconfig, namespace)


@push.command("config")
def push_config(
    file: File,
    *,
    name: Name,
    version: Version,
    schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON Schema that it must satisfy."),
    ] = None,
    key: KeyName = None,
    key_dir: KeyDir = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Publish a configuration: one JSON object.

    Checked here first, against its schema too if it has one.

    Examples:
        kedge push config config.json --name digits --version 1
        kedge push config config.json --name digits --version 2 --schema schema.json
    """
    kind = ArtifactKind.CONFIG
    artifact = Artifact(
        kind=kind,
        source=str(file),
        data=_read(file, MAX_BYTES[kind]),
        name=name,
        version=version,
        schema=_schema(schema) if schema is not None else {},
    )
    _push(artifact, key, key_dir, kubeconfig, namespace)


def _push(
    artifact: Artifact,
    key: str | None,
    key_dir: Path | None,
    kubeconfig: str | None,
    namespace: str | None,
) -> None:
    signing_key = Keyring(key_dir).choose(key)
    with connect(kubeconfig, namespace) as client:
        statement = describe(artifact, namespace=client.endpoint.namespace)
        version = sign(artifact, statement, signing_key)
        outcome = publish(
            client, version, artifact.data, key=signing_key, progress=_progress
        )
        ensure_parent(client, statement)
    say(f"{kind_of(version).singular}/{version.name} {outcome}")
    say(f"  sha256:{statement.sha256} ({amount(statement.length)})")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal, a line elsewhere."""
    if not sys.stderr.isatty():
        complain(f"uploading {amount(total)}")
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("uploading"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("uploading", total=total)
        yield lambda sent: bar.advance(task, sent)


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}") from exc
    if len(data) > limit:
        raise InputError(f"{path}: expected at most {limit} bytes, found more")
    return data


def _labels(path: Path) -> tuple[str, ...]:
    try:
        lines = _read(path, MAX_STATEMENT_BYTES).decode().splitlines()
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: expected labels in UTF-8") from exc
    return tuple(line.strip() for line in lines if line.strip())


def _schema(path: Path) -> dict[str, Any]:
    try:
        return read_object(_read(path, MAX_SCHEMA_BYTES), what=str(path))
    except ConfigError as exc:
        raise InputError(str(exc)) from exc
