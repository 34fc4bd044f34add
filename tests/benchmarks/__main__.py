# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.benchmarks NAME`: run a benchmark, print its goals as JSON lines."""

import argparse
import importlib
import json
import pkgutil
import sys
from typing import Any

from tests import benchmarks

NOT_BENCHMARKS = {"__main__", "load", "runtime"}


def main() -> int:
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if module.name not in NOT_BENCHMARKS
    )
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("name", choices=names, help="make bench BENCH=NAME")
    arguments, rest = parser.parse_known_args()
    module = importlib.import_module(f"tests.benchmarks.{arguments.name}")
    goals: list[dict[str, Any]] = module.run(rest)
    for goal in goals:
        print(json.dumps(goal), flush=True)
    return 0 if all(goal["ok"] for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
