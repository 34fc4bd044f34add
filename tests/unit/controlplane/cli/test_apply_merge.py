# SPDX-License-Identifier: Apache-2.0
"""The three-way merge of `kedge apply`, case by case and as properties."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge_controlplane.cli.apply import merged

scalars = st.integers(0, 3) | st.sampled_from(["x", "y"]) | st.booleans()
documents = st.recursive(
    scalars | st.lists(scalars, max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("abc"), documents, max_size=3)


@pytest.mark.parametrize(
    ("last", "manifest", "live", "expected"),
    [
        ({}, {"a": 1}, {}, {"a": 1}),
        ({}, {"a": 1}, {"a": 2, "b": 3}, {"a": 1, "b": 3}),
        ({"a": 1, "b": 3}, {"a": 1}, {"a": 1, "b": 3}, {"a": 1}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"b": 1, "c": 2, "d": 3}},
         {"a": {"b": 1, "d": 3}}),
        ({"a": {"b": 1}}, {}, {"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}),
        ({"a": {"b": 1}}, {}, {"a": {"b": 1}}, {}),
        ({}, {"a": [1]}, {"a": [2, 3]}, {"a": [1]}),
        ({}, {"a": {"b": 1}}, {"a": 2}, {"a": {"b": 1}}),
        ("damaged", {"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
    ],
    ids=["create", "stay", "removed", "nested", "others in it", "emptied",
        "lists", "type", "damaged"],
)  # fmt: skip
def test_the_manifest_wins_and_only_its_own_leftovers_go(
    last: Any, manifest: Any, live: Any, expected: Any
) -> None:
    assert merged(last, manifest, live) == expected


def holds(manifest: Any, result: Any) -> bool:
    if not isinstance(manifest, dict):
        return bool(manifest == result)
    return isinstance(result, dict) and all(
        key in result and holds(value, result[key]) for key, value in manifest.items()
    )


@given(last=objects, manifest=objects, live=objects)
def test_afterwards_the_object_is_as_the_manifest_says(
    last: Any, manifest: Any, live: Any
) -> None:
    assert holds(manifest, merged(last, manifest, live))


@given(last=objects, manifest=objects, live=objects)
def test_applying_twice_changes_nothing_more(
    last: Any, manifest: Any, live: Any
) -> None:
    once = merged(last, manifest, live)
    assert merged(manifest, manifest, once) == once
