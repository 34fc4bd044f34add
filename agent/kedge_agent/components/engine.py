# SPDX-License-Identifier: Apache-2.0
"""One Wasmtime engine for a runtime process: it compiles, and measures time.

Time is counted in epochs: while a request is admitted, a thread wakes every tick and
adds what has passed, which on a busy device is more than a tick. A store whose deadline
has come is stopped at its next loop or call. Without requests the thread sleeps and
costs nothing. The engine is used from many threads; compiling blocks.

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
"""How much later than its deadline a component may be stopped, if a core is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledComponent:
    """Machine code of a component that fits the world; instances share it."""

    engine: "ComponentEngine"
    component: Any


class EpochCount:
    """How many epochs are due, by the time that really passed."""

    def __init__(self) -> None:
        self._counted_until = 0.0

    def begin(self, now: float) -> None:
        """Count from `now` on."""
        self._counted_until = now

    def due(self, now: float) -> int:
        """Epochs to add. What is less than a tick counts next time, never early."""
        epochs = int((now - self._counted_until) / TICK_S)
        self._counted_until += epochs * TICK_S
        return epochs


class ComponentEngine:
    """Owns the engine and its clock."""

    def __init__(self) -> None:
        config = Config()
        config.epoch_interruption = True
        self.engine: Final = Engine(config)
        self._changed: Final = threading.Condition()
        self._count: Final = EpochCount()
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
        """A request begins: time runs, and what passed before it is counted."""
        with self._changed:
            self._admitted += 1
            if self._admitted == 1:
                self._count.begin(time.monotonic())
                self._changed.notify()
            else:
                self._advance()

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
            time.sleep(TICK_S)
            with self._changed:
                self._advance()

    def _advance(self) -> None:
        for _ in range(self._count.due(time.monotonic())):
            self.engine.increment_epoch()

    def _wait_for_request(self) -> bool:
        """Park until a request is admitted; False when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._admitted or self._closed)
            return not self._closed


def ticks(seconds: float) -> int:
    """Epochs that take at least so long, wherever within a tick they begin."""
    return math.ceil(seconds / TICK_S) + 1
