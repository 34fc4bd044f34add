# SPDX-License-Identifier: Apache-2.0
"""`kedge apply`: make the server's objects what the manifests say.

The same three-way comparison as `kubectl apply`, with the same annotation, so that both
can be used on one object: what a manifest says wins, what the last applied manifest
said and this one does not is removed, what others wrote stays. One object's failure
does not stop the others; a server that does not answer, or does not know us, does.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from kedge_controlplane.cli.console import complain, explain, say
from kedge_controlplane.cli.kinds import resolve
from kedge_controlplane.cli.manifests import Manifest, read_manifests
from kedge_controlplane.cli.options import Kubeconfig, Namespace, connect
from kedge_controlplane.client import Client, Document
from kedge_controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    ControlPlaneError,
    InputError,
    InvalidError,
    UnauthorizedError,
    UnreachableError,
)
from kedge_controlplane.model.meta import API_VERSION
from kedge_controlplane.model.registry import BY_KIND, Kind

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"

_ATTEMPTS: Final = 5
"""Somebody else wrote in between; controllers write status often."""

_ORDER: Final = (
    "PublisherKey",
    "Model",
    "Component",
    "ModelVersion",
    "ComponentVersion",
    "ConfigSet",
    "Release",
    "Fleet",
)
"""What is named comes before what names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    kind: Kind
    name: str
    document: Document

    def __str__(self) -> str:
        return f"{self.kind.singular}/{self.name}"


def apply(
    context: typer.Context,
    *,
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--filename", "-f", metavar="FILE|DIR|-", help="Manifests; may be repeated."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask the server, change nothing.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Create or change objects as manifests say.

    Works on the same objects as `kubectl apply`. One that is refused does not stop
    the others. A dry run cannot check what depends on an object it would create.

    Examples:
        kedge apply -f fleet.yaml
        kedge apply -f manifests/ --dry-run
        cat fleet.yaml | kedge apply -f -
    """
    if context.args:
        hint = " ".join(f"-f {place}" for place in context.args)
        context.fail(f"expected manifests after -f: kedge apply {hint}")
    if not files:
        context.fail("expected manifests, found none: kedge apply -f FILE")
    manifests = _sorted(read_manifests(files))
    with connect(kubeconfig, namespace) as client:
        if dry_run:
            ok = [_tried(client, manifest, manifests) for manifest in manifests]
        else:
            ok = [_applied(client, manifest) for manifest in manifests]
    if not all(ok):
        raise typer.Exit(1)


def apply_document(client: Client, document: Document, *, dry_run: bool = False) -> str:
    """Apply one object; answers such as `fleet/digits created`.

    Raises:
        InputError: The document is no object of ours.
        StatusError: The server refused it.
    """
    wanted = _wanted(document, client.endpoint.namespace)
    return f"{wanted} {_apply(client, wanted, dry_run=dry_run)}"


def _applied(client: Client, manifest: Manifest) -> bool:
    """Apply and say so; False where the object is refused."""
    try:
        say(apply_document(client, manifest.document))
    except (UnreachableError, UnauthorizedError):
        raise  # the next object would not fare better
    except ControlPlaneError as exc:
        complain(f"{manifest.source}: {explain(exc)}")
        return False
    return True


def _tried(client: Client, manifest: Manifest, run: Collection[Manifest]) -> bool:
    """Ask what applying would do and say so; False where the object is refused."""
    try:
        outcome = apply_document(client, manifest.document, dry_run=True)
        say(f"{outcome} (dry run)")
    except (UnreachableError, UnauthorizedError):
        raise
    except ControlPlaneError as exc:
        wanted = _waits_for(client, manifest.document, run, exc)
        if not wanted:
            complain(f"{manifest.source}: {explain(exc)}")
            return False
        document = manifest.document
        name = f"{resolve(document['kind']).singular}/{document['metadata']['name']}"
        say(
            f"{name}: depends on {', '.join(wanted)} of this run; "
            "cannot be checked in a dry run"
        )
    return True


def _waits_for(
    client: Client,
    document: Document,
    run: Collection[Manifest],
    error: ControlPlaneError,
) -> list[str]:
    """What the run would create first, if only for that `document` was refused."""
    if not isinstance(error, InvalidError) or not error.causes:
        return []
    if any(cause.reason != "FieldValueNotFound" for cause in error.causes):
        return []
    made = set(_identities(run))
    # The server read the names, so the document has the shape they are read from.
    missing = [
        (kind, name)
        for reference in resolve(document["kind"]).references
        for kind, name in dict.fromkeys(
            (BY_KIND[reference.kind], name) for name in reference.names(document)
        )
        if client.find(kind, name) is None
    ]
    if any((kind.kind, name) not in made for kind, name in missing):
        return []
    return [f"{kind.singular}/{name}" for kind, name in missing]


def _identities(run: Iterable[Manifest]) -> Iterator[tuple[str, str]]:
    for manifest in run:
        metadata = manifest.document.get("metadata")
        if isinstance(metadata, dict):
            yield manifest.document["kind"], str(metadata.get("name"))


def merged(last: Any, manifest: Any, live: Any) -> Any:
    """What to write: `manifest` wins, what only `last` had goes, the rest stays."""
    if not isinstance(manifest, dict) or not isinstance(live, dict):
        return manifest
    before = last if isinstance(last, dict) else {}
    result = {}
    for key, value in live.items():
        if key in manifest:
            result[key] = merged(before.get(key), manifest[key], value)
        elif key not in before:
            result[key] = value
        elif isinstance(value, dict) and (
            left := merged(before[key], {}, value)
        ):  # others wrote here too
            result[key] = left
    return result | {key: manifest[key] for key in manifest if key not in live}


def _sorted(manifests: Iterable[Manifest]) -> list[Manifest]:
    def rank(manifest: Manifest) -> int:
        kind = manifest.document["kind"]
        return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)

    return sorted(manifests, key=rank)


def _wanted(document: Document, namespace: str) -> _Wanted:
    if document.get("apiVersion") != API_VERSION:
        found = document.get("apiVersion")
        raise InputError(f"apiVersion: expected {API_VERSION}, found {found!r:.80}")
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(name, str) or not name:
        raise InputError("metadata.name: expected a name, found none")
    if metadata.get("namespace", namespace) != namespace:
        other = metadata["namespace"]
        raise InputError(
            f"metadata.namespace: expected {namespace}, found {other!r:.80}",
            advice=f"Apply it with -n {other}.",
        )
    kept = {key: value for key, value in document.items() if key != "status"}
    return _Wanted(
        kind=resolve(document["kind"]),
        name=name,
        document=kept | {"metadata": {**metadata, "namespace": namespace}},
    )


def _apply(client: Client, wanted: _Wanted, *, dry_run: bool) -> str:
    for _ in range(_ATTEMPTS):
        live = client.find(wanted.kind, wanted.name)
        try:
            if live is None:
                document = _annotated(wanted.document, wanted.document)
                client.create(wanted.kind, document, dry_run=dry_run)
                return "created"
            changed = _changed(wanted, live)
            if changed is None:
                return "unchanged"
            client.replace(wanted.kind, changed, dry_run=dry_run)
        except (ConflictError, AlreadyExistsError):
            continue
        return "configured"
    raise ConflictError(
        f"{wanted}: expected it to hold still, found it changed {_ATTEMPTS} times"
    )


def _changed(wanted: _Wanted, live: Document) -> Document | None:
    annotations = live["metadata"].get("annotations", {})
    try:
        last = json.loads(annotations.get(LAST_APPLIED, "{}"))
    except ValueError:
        last = {}
    document = merged(last, wanted.document, live)
    if document == live:
        return None
    return _annotated(document, wanted.document)


def _annotated(document: Document, applied: Document) -> Document:
    # Byte for byte what kubectl writes, or the two would take turns in rewriting it.
    noted = {**applied, "metadata": {"annotations": {}, **applied["metadata"]}}
    text = json.dumps(noted, sort_keys=True, separators=(",", ":")) + "\n"
    metadata = document["metadata"]
    annotations = {**metadata.get("annotations", {}), LAST_APPLIED: text}
    return {**document, "metadata": {**metadata, "annotations": annotations}}
