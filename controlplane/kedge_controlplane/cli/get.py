# SPDX-License-Identifier: Apache-2.0
"""`kedge get` and `kedge delete`."""

import json
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Final

import typer

from kedge_controlplane.cli.console import (
    as_json,
    as_yaml,
    complain,
    explain,
    row,
    say,
    table,
    widths,
)
from kedge_controlplane.cli.kinds import cells, header, split_reference
from kedge_controlplane.cli.options import Kubeconfig, Namespace, connect
from kedge_controlplane.client import Client, Document
from kedge_controlplane.errors import ControlPlaneError, GoneError, InputError
from kedge_controlplane.model.registry import Kind

GONE_PAUSE_S: Final = 1.0
"""Between two lists of a watch that cannot keep up: the server is busy enough."""


class Output(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def get(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Such as fleets or fl.")],
    name: Annotated[str | None, typer.Argument(metavar="NAME")] = None,
    *,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="How to print it.")
    ] = Output.TABLE,
    selector: Annotated[
        str, typer.Option("--selector", "-l", metavar="KEY=VALUE", help="By label.")
    ] = "",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Print changes until interrupted.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Show objects.

    A table without -o; what the server has, in full, with -o yaml or -o json.

    Examples:
        kedge get devices
        kedge get fleet digits -o yaml
        kedge get devices -l site=berlin -w
    """
    found, wanted = split_reference(kind, name)
    if wanted is not None and selector:
        raise InputError("expected a name or a selector, found both")
    with connect(kubeconfig, namespace) as client:
        documents, revision = _read(client, found, wanted, selector)
        printer = _Printer(kind=found, output=output, documents=documents)
        if wanted is not None and not watch:
            printer.print_one(documents[0])
        elif documents or watch:
            printer.print_all(documents)
        else:
            complain(f"No {found.plural} in namespace {client.endpoint.namespace}.")
        if watch:
            _follow(client, found, wanted, selector, revision, printer.print_change)


def delete(
    kind: Annotated[str, typer.Argument(metavar="KIND")],
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    *,
    ignore_not_found: Annotated[
        bool, typer.Option(help="What is not there counts as deleted.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Delete objects.

    What they belong to stays. One that cannot be deleted does not stop the others.

    Examples:
        kedge delete fleet digits
        kedge delete releases digits-1 digits-2 --ignore-not-found
    """
    found, _ = split_reference(kind, None)
    failed = False
    with connect(kubeconfig, namespace) as client:
        for name in names:
            try:
                if ignore_not_found and client.find(found, name) is None:
                    continue
                client.delete(found, name)
                say(f"{found.singular}/{name} deleted")
            except ControlPlaneError as exc:
                complain(explain(exc))
                failed = True
    if failed:
        raise typer.Exit(1)


def _read(
    client: Client, kind: Kind, name: str | None, selector: str
) -> tuple[list[Document], str]:
    if name is None:
        return client.list(kind, selector=selector)
    # Not from the object's own resourceVersion: events that old may be gone.
    documents, revision = client.list(kind, name=name)
    return documents or [client.get(kind, name)], revision


def _follow(
    client: Client,
    kind: Kind,
    name: str | None,
    selector: str,
    revision: str,
    show: Callable[[Document], None],
) -> None:
    """Show changes for ever; a stream that ended begins again where it stopped."""
    while True:
        try:
            for event in client.watch(
                kind, since=revision, selector=selector, name=name or ""
            ):
                document = event["object"]
                if event["type"] == "ERROR":
                    revision = ""
                    break
                revision = str(document["metadata"]["resourceVersion"])
                if event["type"] != "BOOKMARK":
                    show(document)
        except GoneError:
            revision = ""
        if not revision:  # too far behind: begin again from what is there now
            time.sleep(GONE_PAUSE_S)
            documents, revision = client.list(kind, selector=selector, name=name or "")
            for document in documents:
                show(document)


class _Printer:
    """Prints objects in one way; table rows keep the first table's widths."""

    def __init__(
        self, *, kind: Kind, output: Output, documents: Sequence[Document]
    ) -> None:
        self._kind = kind
        self._output = output
        self._wide = output is Output.WIDE
        rows = [header(kind, wide=self._wide), *map(self._cells, documents)]
        self._rows = rows
        self._widths = widths(rows)

    def print_one(self, document: Document) -> None:
        match self._output:
            case Output.JSON:
                say(as_json(document))
            case Output.YAML:
                say(as_yaml(document))
            case Output.NAME:
                say(self._reference(document))
            case _:
                say(table(self._rows))

    def print_all(self, documents: Sequence[Document]) -> None:
        whole = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        match self._output:
            case Output.JSON:
                say(as_json(whole))
            case Output.YAML:
                say(as_yaml(whole))
            case Output.NAME:
                for document in documents:
                    say(self._reference(document))
            case _:
                say(table(self._rows))

    def print_change(self, document: Document) -> None:
        match self._output:
            case Output.JSON:
                say(json.dumps(document, ensure_ascii=False))
            case Output.YAML:
                say(f"---\n{as_yaml(document)}")
            case Output.NAME:
                say(self._reference(document))
            case _:
                say(row(self._cells(document), self._widths))

    def _cells(self, document: Document) -> list[str]:
        return cells(self._kind, document, wide=self._wide)

    def _reference(self, document: Document) -> str:
        return f"{self._kind.singular}/{document['metadata']['name']}"
