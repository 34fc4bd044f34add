# SPDX-License-Identifier: Apache-2.0
"""Swaps of the whole triple under open-loop load: component and model both change.

A runtime process serves the digits example. Capacity is measured closed loop; then
requests arrive open loop at 60 % of it, first with nothing else going on (steady), then
while the runtime swaps between two generations. Between them the model differs (v1, v2)
and so does the component: the second one is the same code with a custom section, so
another digest, compiled afresh. Every answer is compared with bare ONNX Runtime's for
the model that the answer names.

A request belongs to a swap if it was due between the start of Prepare and the answer of
Discard.
"""

import argparse
from typing import Any

import numpy as np

from kedge_wire.v1.runtime_pb2 import GenerationRequest, PrepareRequest
from tests.benchmarks.runtime import (
    MODEL_NAME,
    Digits,
    LoadProcess,
    LoadResult,
    Runtime,
    milliseconds,
    now,
    running_runtime,
)

SHARE_OF_CAPACITY = 0.6
SWAPS_PER_SECOND = 5


def run(arguments: list[str]) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(prog="make bench BENCH=swap", description=__doc__)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--steady-seconds", type=float, default=20)
    options = parser.parse_args(arguments)
    digits = Digits.load()
    with running_runtime() as runtime:
        return _measure(runtime, digits, options.swaps, options.steady_seconds)


def _measure(
    runtime: Runtime, digits: Digits, swaps: int, steady_seconds: float
) -> list[dict[str, Any]]:
    versions = [
        runtime.workload(component=component, model=model, config=digits.config)
        for component, model in zip(
            (digits.component, _with_custom_section(digits.component)),
            digits.models,
            strict=True,
        )
    ]
    plan: dict[str, object] = {
        "host": "127.0.0.1",
        "port": runtime.port,
        "model": MODEL_NAME,
        "images": digits.images.tolist(),
        "expected": digits.expected(),
    }
    swapper = Swapper(runtime, versions)
    swapper.swap()
    capacity = LoadProcess({**plan, "seconds": 5}).wait()
    rate = SHARE_OF_CAPACITY * (capacity.requests / capacity.seconds)
    steady = LoadProcess({**plan, "rate": rate, "seconds": steady_seconds}).wait()
    load = LoadProcess({**plan, "rate": rate})
    started = now()
    windows = []
    for number in range(swaps):
        _sleep_until(started + 1 + number / SWAPS_PER_SECOND)
        windows.append(swapper.swap())
    during = load.finish()
    return _goals(capacity, rate, steady, during, windows, swapper)


class Swapper:
    """Prepares, activates and commits the other version, again and again."""

    def __init__(self, runtime: Runtime, versions: list[Any]) -> None:
        self._runtime, self._versions = runtime, versions
        self._generation = 0
        self.prepare_ms: list[int] = []
        self.cut_over_micros: list[int] = []

    def swap(self) -> tuple[float, float]:
        begun = now()
        self._generation += 1
        prepared = self._runtime.control.Prepare(
            PrepareRequest(
                generation=self._generation,
                workloads=[self._versions[self._generation % 2]],
                cas_directory=str(self._runtime.cas),
            ),
            timeout=60,
        )
        activated = self._runtime.control.Activate(
            GenerationRequest(generation=self._generation), timeout=60
        )
        self._runtime.control.Discard(
            GenerationRequest(generation=self._generation - 1), timeout=60
        )
        self.prepare_ms.append(prepared.prepare_millis)
        self.cut_over_micros.append(activated.workloads[0].last_swap_micros)
        return begun, now()


def _goals(
    capacity: LoadResult,
    rate: float,
    steady: LoadResult,
    during: LoadResult,
    windows: list[tuple[float, float]],
    swapper: Swapper,
) -> list[dict[str, Any]]:
    due, latency = np.array(during.due), np.array(during.latency)
    starts = np.array([begin for begin, _ in windows])
    ends = np.array([end for _, end in windows])
    index = np.searchsorted(starts, due, side="right") - 1
    inside = (index >= 0) & (due <= ends[np.maximum(index, 0)])
    detail = {
        "swaps": len(windows),
        "requests": during.requests,
        "failed": during.failed + steady.failed + capacity.failed,
        "wrong": during.wrong + steady.wrong + capacity.wrong,
        "requests_during_swaps": int(inside.sum()),
        "capacity_per_s": round(capacity.requests / capacity.seconds),
        "rate_per_s": round(rate),
        "steady_ms_p50": milliseconds(np.array(steady.latency), 0.5),
        "steady_ms_p99": milliseconds(np.array(steady.latency), 0.99),
        "swap_ms_p50": milliseconds(latency[inside], 0.5),
        "swap_ms_p99": milliseconds(latency[inside], 0.99),
        "prepare_ms_p50": float(np.median(swapper.prepare_ms)),
        "cut_over_us_p99": float(np.quantile(swapper.cut_over_micros[1:], 0.99)),
        "first_errors": during.first_errors,
    }
    return [
        _goal("swap.failed", "0 failed", detail["failed"], detail),
        _goal("swap.wrong", "0 wrong", detail["wrong"], {}),
    ]


def _goal(name: str, goal: str, value: Any, detail: dict[str, Any]) -> dict[str, Any]:
    return {
        "bench": name,
        "goal": goal,
        "value": value,
        "unit": "requests",
        "ok": value == 0,
        "detail": detail,
    }


def _with_custom_section(component: bytes) -> bytes:
    """The same code under another digest: a custom section at the end."""
    name = b"kedge-bench"
    content = bytes([len(name)]) + name
    return component + bytes([0, len(content)]) + content


def _sleep_until(instant: float) -> None:
    import time

    time.sleep(max(0.0, instant - now()))
