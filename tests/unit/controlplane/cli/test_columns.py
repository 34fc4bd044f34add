# SPDX-License-Identifier: Apache-2.0
"""What a table shows of an object at a glance."""

from typing import Any

import pytest

from kedge_controlplane.cli.kinds import cells, header
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.registry import BY_KIND


def shown(kind: str, document: dict[str, Any], column: str) -> str:
    names = header(BY_KIND[kind], wide=True)
    values = cells(BY_KIND[kind], document, wide=True)
    return dict(zip(names, values, strict=True))[column]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, "-"),
        ({"SpecValid": "True", "MultipleOwners": "False"}, "-"),
        ({"SpecValid": "False"}, "BecauseSpecValid"),
        ({"SpecValid": "True", "MultipleOwners": "True"}, "BecauseMultipleOwners"),
    ],
    ids=["new", "well", "refused", "contested"],
)
def test_a_fleet_that_needs_a_person_says_why(
    conditions: dict[str, str], expected: str
) -> None:
    listed = [
        {"type": kind, "status": status, "reason": f"Because{kind}"}
        for kind, status in conditions.items()
    ]
    assert shown("Fleet", {"status": {"conditions": listed}}, "STATUS") == expected


def test_a_device_is_shown_with_the_name_of_its_host() -> None:
    device = Device.model_validate(
        {"metadata": {"name": "d-1"}, "status": {"systemInfo": {"hostname": "cam"}}}
    )
    assert shown("Device", device.to_wire(), "HOSTNAME") == "cam"
