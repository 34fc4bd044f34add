# SPDX-License-Identifier: Apache-2.0
"""What to tell an operator about a rollout. Pure."""

from dataclasses import dataclass, replace
from enum import Enum, auto

from kedge_controlplane.cli.console import table
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.rollout import BatchStatus, Rollout, RolloutPhase


class State(Enum):
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()  # ended otherwise, or waits for a person


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`text` is the whole picture, `verdict` one line of it."""

    state: State
    text: str
    verdict: str
    advice: str = ""


_STATES = {
    RolloutPhase.PENDING: State.RUNNING,
    RolloutPhase.PROGRESSING: State.RUNNING,
    RolloutPhase.COMPLETED: State.DONE,
    RolloutPhase.PAUSED: State.FAILED,
    RolloutPhase.ABORTED: State.FAILED,
}
_ADVICE = {
    RolloutPhase.PAUSED: "Devices that failed say why: `kedge get devices -o wide`. "
    "The rollout goes on by itself once they succeed; otherwise apply the fleet with "
    "a corrected release.",
    RolloutPhase.ABORTED: "A newer version of the fleet superseded it.",
}


def progress_of(rollout: Rollout | None, *, fleet: Fleet | None = None) -> Progress:
    """Progress of a rollout; with its fleet, of the fleet's newest specification.

    What else a person should know of the fleet comes first in the text.
    """
    progress = _progress_of(rollout, fleet)
    if fleet is None or not (contested := _contested(fleet)):
        return progress
    return replace(progress, text=f"{contested}\n{progress.text}")


def _progress_of(rollout: Rollout | None, fleet: Fleet | None) -> Progress:
    if fleet is not None:
        if waiting := _unseen(fleet):
            return Progress(state=State.RUNNING, text=waiting, verdict=waiting)
        if refused := _refused(fleet):
            return Progress(
                state=State.FAILED,
                text=refused,
                verdict=refused,
                advice="Apply what is missing, or a fleet that names what is there.",
            )
        if waiting := _waiting(fleet, rollout):
            return Progress(state=State.RUNNING, text=waiting, verdict=waiting)
    if rollout is None:
        raise ValueError("expected a rollout or a fleet")
    status = rollout.status
    verdict = f"rollout {rollout.name}: {status.phase}"
    if status.message:
        verdict += f": {status.message}"
    rows = [_row(index, batch) for index, batch in enumerate(status.batches)]
    header = ["  BATCH", "PHASE", "DEVICES", "SUCCEEDED", "FAILED"]
    return Progress(
        state=_STATES[status.phase],
        text="\n".join([verdict, table([header, *rows])]) if rows else verdict,
        verdict=verdict,
        advice=_ADVICE.get(status.phase, ""),
    )


def _unseen(fleet: Fleet) -> str:
    generation = fleet.metadata.generation or 0
    if fleet.status.observed_generation >= generation:
        return ""
    return f"fleet {fleet.name}: waiting for generation {generation} to be seen"


def _refused(fleet: Fleet) -> str:
    """Why the fleet's controller cannot make a rollout of the specification, if so."""
    for condition in fleet.status.conditions:
        if condition.type == "SpecValid" and condition.status == "False":
            return f"fleet {fleet.name}: {condition.reason}: {condition.message}"
    return ""


def _contested(fleet: Fleet) -> str:
    """Which devices other fleets own too, if any."""
    for condition in fleet.status.conditions:
        if condition.type == "MultipleOwners" and condition.status == "True":
            return f"fleet {fleet.name}: {condition.type}: {condition.message}"
    return ""


def _waiting(fleet: Fleet, rollout: Rollout | None) -> str:
    """Why the fleet's rollout is not the one that its specification needs, if so."""
    if rollout is None:
        return f"fleet {fleet.name}: waiting for a rollout"
    wanted = fleet.status.template_version
    if rollout.spec.template_version != wanted:
        return f"fleet {fleet.name}: waiting for the rollout of {wanted}"
    return ""


def _row(index: int, batch: BatchStatus) -> list[str]:
    return [
        f"  {batch.name or index + 1}",
        batch.phase,
        str(len(batch.devices)),
        str(batch.succeeded),
        str(batch.failed),
    ]
