# SPDX-License-Identifier: Apache-2.0
"""`kedge rollout`: how far a change has come."""

import time
from collections.abc import Iterator
from typing import Annotated, Final

import typer

from kedge_controlplane.cli.console import say
from kedge_controlplane.cli.options import Kubeconfig, Namespace, connect
from kedge_controlplane.cli.progress import Progress, State, progress_of
from kedge_controlplane.client import Client
from kedge_controlplane.errors import InputError, NotFoundError, OutcomeError
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.quantity import parse_duration
from kedge_controlplane.model.registry import BY_KIND
from kedge_controlplane.model.rollout import Rollout

POLL_S: Final = 0.5

rollout = typer.Typer(no_args_is_help=True, help="Follow rollouts.")


@rollout.callback()
def rollout_group() -> None:
    """Keeps `status` a command of its own while there is only one."""


@rollout.command("status")
def status(
    name: Annotated[str, typer.Argument(metavar="FLEET|ROLLOUT")],
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Wait until it has ended.")
    ] = False,
    timeout: Annotated[str, typer.Option(help="Longest wait.")] = "10m",
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Show how far a fleet's rollout has come.

    Fails if it halted or was aborted; with --watch also if time ran out.

    Examples:
        kedge rollout status digits
        kedge rollout status digits --watch --timeout 5m
    """
    try:
        limit_s = parse_duration(timeout).total_seconds()
    except ValueError as exc:
        raise InputError(f"--timeout: {exc}") from exc
    with connect(kubeconfig, namespace) as client:
        now = _progress(client, name)
        if watch:
            for now in _changes(client, name, limit_s=limit_s):
                say(now.text)
        else:
            say(now.text)
    if now.state is State.FAILED:
        raise OutcomeError(now.verdict, advice=now.advice)
    if watch and now.state is State.RUNNING:
        raise OutcomeError(f"expected {name} to finish within {timeout}: {now.verdict}")


def _changes(client: Client, name: str, *, limit_s: float) -> Iterator[Progress]:
    """Every new state until the rollout ends or the time is over."""
    ends = time.monotonic() + limit_s
    last: Progress | None = None
    while True:
        now = _progress(client, name)
        if now != last:
            yield now
            last = now
        if now.state is not State.RUNNING or time.monotonic() >= ends:
            return
        time.sleep(min(POLL_S, max(0.0, ends - time.monotonic())))


def _progress(client: Client, name: str) -> Progress:
    document = client.find(BY_KIND["Fleet"], name)
    if document is None:
        found = client.find(BY_KIND["Rollout"], name)
        if found is None:
            raise NotFoundError(
                f"expected a fleet or rollout {name!r:.80} in namespace "
                f"{client.endpoint.namespace}, found none"
            )
        return progress_of(Rollout.model_validate(found))
    fleet = Fleet.model_validate(document)
    current = fleet.status.rollout
    found = client.find(BY_KIND["Rollout"], current) if current else None
    return progress_of(
        Rollout.model_validate(found) if found is not None else None, fleet=fleet
    )
