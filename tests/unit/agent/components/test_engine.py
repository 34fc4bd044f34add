# SPDX-License-Identifier: Apache-2.0
"""What the engine refuses to compile."""

import pytest
from wasmtime import wat2wasm

from kedge_agent.components.engine import TICK_S, ComponentEngine, EpochCount, ticks
from kedge_agent.errors import ComponentError


@pytest.mark.parametrize(
    ("wasm", "message"),
    [
        (b"not wasm", "expected WebAssembly"),
        (bytes(wat2wasm("(module)")), "expected a component, found a core module"),
        (bytes(wat2wasm("(component)")), "#metadata: expected func.*found nothing"),
    ],
    ids=["garbage", "core-module", "another-world"],
)
def test_what_is_not_of_the_world_is_a_component_error(
    engine: ComponentEngine, wasm: bytes, message: str
) -> None:
    with pytest.raises(ComponentError, match=message) as caught:
        engine.compile(wasm)
    assert "wit/kedge-ai" in caught.value.diagnostics()


def test_a_deadline_never_comes_early() -> None:
    for seconds in (0.0001, TICK_S, 0.1, 1.0):
        # The first tick may come at once: it does not count.
        assert (ticks(seconds) - 1) * TICK_S >= seconds


def test_a_late_tick_counts_all_that_passed_and_nothing_that_did_not() -> None:
    count = EpochCount()
    count.begin(100.0)

    # On a busy device a sleep of one tick takes several.
    assert count.due(100.0 + 7.5 * TICK_S) == 7
    assert count.due(100.0 + 7.9 * TICK_S) == 0
    assert count.due(100.0 + 8.1 * TICK_S) == 1
