# SPDX-License-Identifier: Apache-2.0
"""One Wasmtime engine for a runtime process: it compiles, and measures time.

Time is counted in epochs: a thread adds one every tick while a request is admitted, and
a store whose deadline has come is stopped at its next loop or call. Without requests
the thread sleeps and costs nothing. The engine is used from many threads; compiling
blocks.

    parked --first request admitted--> ticking --a tick without requests--> parked
"""

import math
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from wasmtime import Config, Engine

from kedge_agent.errors import ComponentError
from kedge_wire.inspection import compile_component
from kedge_wire.world import WorldError

TICK_S: Final = 0.005
"""How much later than its deadline a component may be stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledComponent:
    """Machine code of a component that fits the world; instances share it."""

    engine: "ComponentEngine"
    component: Any


class ComponentEngine:
    """Owns the engine and its clock."""

    def __init__(self) -> None:
        config = Config()
        config.epoch_interruption = True
        self.engine: Final = Engine(config)
        self._changed: Final = threading.Condition()
        self._admitted = 0
        self._closed = False
        self._ticker: Final = threading.Thread(
            target=self._tick, name="component-clock", daemon=True
        )
        self._ticker.start()

    def compile(self, wasm: bytes) -> CompiledComponent:
        """Compile a component; takes tens of milliseconds.

        Raises:
            ComponentError: Not a component, or not of our world.
        """
        try:
            component = compile_component(self.engine, wasm)
        except WorldError as exc:
            raise ComponentError(f"component: {exc}") from exc
        return CompiledComponent(engine=self, component=component)

    def admit(self) -> None:
        """A request begins: time runs."""
        with self._changed:
            self._admitted += 1
            if self._admitted == 1:
                self._changed.notify()

    def release(self) -> None:
        """A request is over."""
        with self._changed:
            self._admitted -= 1

    def close(self) -> None:
        """Stop the clock; instances are closed before."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._ticker.join()

    def _tick(self) -> None:
        while self._wait_for_request():
            time.sleep(
                TICK_S
            )  # never shorter: an early epoch would be an early deadline
            self.engine.increment_epoch()

    def _wait_for_request(self) -> bool:
        """Park until a request is admitted; False when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._admitted or self._closed)
            return not self._closed


def ticks(seconds: float) -> int:
    """Epochs that take at least so long, wherever within a tick they begin."""
    return math.ceil(seconds / TICK_S) + 1
