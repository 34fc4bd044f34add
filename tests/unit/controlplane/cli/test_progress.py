# SPDX-License-Identifier: Apache-2.0
"""What an operator is told about a rollout."""

from typing import Any

import pytest

from kedge_controlplane.cli.console import age, amount, table
from kedge_controlplane.cli.progress import State, progress_of
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.rollout import Rollout, RolloutPhase


def rollout(phase: str, *, template: str = "digits-1") -> Rollout:
    batches = [
        {"name": "canary", "phase": "Completed", "devices": ["d-1"], "succeeded": 1},
        {"name": "", "phase": "Progressing", "devices": ["d-2", "d-3"], "failed": 1},
    ]
    return Rollout.model_validate(
        {
            "metadata": {"name": "digits-7"},
            "spec": {"fleet": "digits", "templateVersion": template},
            "status": {"phase": phase, "message": "1 failed", "batches": batches},
        }
    )


def fleet(*, seen: int = 2, **status: Any) -> Fleet:
    return Fleet.model_validate(
        {
            "metadata": {"name": "digits", "generation": 2},
            "spec": {"selector": {}, "template": {"spec": {"release": "digits-1"}}},
            "status": {
                "observedGeneration": seen,
                "templateVersion": "digits-1",
                **status,
            },
        }
    )


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        ("Pending", State.RUNNING),
        ("Progressing", State.RUNNING),
        ("Completed", State.DONE),
        ("Paused", State.FAILED),
        ("Aborted", State.FAILED),
    ],
)
def test_every_phase_is_running_done_or_failed(phase: str, state: State) -> None:
    progress = progress_of(rollout(phase), fleet=fleet())
    assert progress.state is state
    assert progress.verdict == f"rollout digits-7: {phase}: 1 failed"
    assert bool(progress.advice) == (state is State.FAILED)


def test_no_phase_is_left_out() -> None:
    for phase in RolloutPhase:
        progress_of(rollout(phase))


def test_batches_are_rows() -> None:
    lines = progress_of(rollout("Progressing")).text.splitlines()
    assert lines[1].split() == ["BATCH", "PHASE", "DEVICES", "SUCCEEDED", "FAILED"]
    assert lines[2].split() == ["canary", "Completed", "1", "1", "0"]
    assert lines[3].split() == ["2", "Progressing", "2", "0", "1"]


def test_an_older_rollout_is_not_taken_for_the_fleets() -> None:
    progress = progress_of(rollout("Completed"), fleet=fleet(seen=1))
    assert progress.state is State.RUNNING
    assert "waiting for generation 2 to be seen" in progress.text


def test_a_fleet_that_cannot_be_rolled_out_waits_for_a_person() -> None:
    condition = {
        "type": "SpecValid",
        "status": "False",
        "reason": "Invalid",
        "message": "no digits-9",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    refused = fleet(conditions=[condition])
    progress = progress_of(rollout("Completed"), fleet=refused)
    assert progress.state is State.FAILED
    assert progress.verdict == "fleet digits: Invalid: no digits-9"
    stale = fleet(seen=1, conditions=[condition])
    assert progress_of(None, fleet=stale).state is State.RUNNING


def test_devices_that_other_fleets_own_too_are_told_of_first() -> None:
    condition = {
        "type": "MultipleOwners",
        "status": "True",
        "reason": "Contested",
        "message": "d-1 is also in letters",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    contested = progress_of(rollout("Completed"), fleet=fleet(conditions=[condition]))
    first, second, *_ = contested.text.splitlines()
    assert first == "fleet digits: MultipleOwners: d-1 is also in letters"
    assert second == contested.verdict
    assert contested.state is State.DONE


def test_a_rollout_of_another_template_is_waited_out() -> None:
    progress = progress_of(rollout("Completed", template="digits-0"), fleet=fleet())
    assert progress.state is State.RUNNING
    assert "waiting for the rollout of digits-1" in progress.text
    assert "waiting for a rollout" in progress_of(None, fleet=fleet()).text


def test_tables_align_without_trailing_space() -> None:
    text = table([["NAME", "AGE"], ["a-long-name", "5d"], ["b", ""]])
    assert text == "NAME          AGE\na-long-name   5d\nb"


def test_ages_are_short() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    ages = {
        "2026-01-02T03:04:00Z": "5s",
        "2026-01-02T03:00:00Z": "4m",
        "2026-01-01T03:04:00Z": "1d",
        "2026-01-02T04:00:00Z": "0s",
        "": "<unknown>",
        "soon": "soon",
    }
    assert {text: age(text, now=now) for text in ages} == ages


def test_amounts_are_short() -> None:
    assert [amount(n) for n in (0, 999, 1500, 25_000_000, 5 * 10**9)] == [
        "0 B", "999 B", "1.5 kB", "25.0 MB", "5.0 GB",
    ]  # fmt: skip
