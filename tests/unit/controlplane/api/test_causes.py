# SPDX-License-Identifier: Apache-2.0
"""A wrong value is answered with what was expected and what was found."""

from typing import Any

import pytest

from kedge_controlplane.api.validation import to_resource
from kedge_controlplane.errors import InvalidError
from kedge_controlplane.model.registry import BY_KIND

WORKLOAD = {"name": "digits", "component": "c-1", "model": "m-1", "config": "k-1"}


def cause_of(spec: Any, *, kind: str = "Release") -> str:
    document = {"metadata": {"name": "r-1"}, "spec": spec}
    with pytest.raises(InvalidError) as caught:
        to_resource(BY_KIND[kind], document)
    (cause,) = caught.value.causes
    return f"{cause.field}: {cause.message}"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, "spec.workloads: expected a value, found none"),
        ({"workloads": []}, "spec.workloads: expected a length of at least 1, found 0"),
        ({"workloads": "x"}, 'spec.workloads: expected a list, found "x"'),
        ({"workloads": ["x"]}, 'spec.workloads[0]: expected an object, found "x"'),
        ([1], "spec: expected an object, found a list"),
        (
            {"workloads": [WORKLOAD | {"model": 7}]},
            "spec.workloads[0].model: expected a string, found 7",
        ),
        (
            {"workloads": [WORKLOAD | {"model": {"a": 1}}]},
            "spec.workloads[0].model: expected a string, found an object",
        ),
        (
            {"workloads": [WORKLOAD | {"model": None}]},
            "spec.workloads[0].model: expected a string, found null",
        ),
    ],
)
def test_a_wrong_value_is_answered_with_what_was_expected(
    spec: Any, expected: str
) -> None:
    assert cause_of(spec) == expected


def test_a_choice_is_answered_with_what_there_is_to_choose_from() -> None:
    spec = {
        "selector": {},
        "template": {"spec": {"release": "r-1"}},
        "rolloutPolicy": {"onError": "Explode"},
    }
    message = cause_of(spec, kind="Fleet")
    assert message.startswith("spec.rolloutPolicy.onError: expected one of ")
    assert message.endswith(', found "Explode"')
