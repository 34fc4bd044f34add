# SPDX-License-Identifier: Apache-2.0
"""Full jitter: how long to wait before trying again, so that a fleet spreads out."""

import random


class Backoff:
    """Doubling waits between two bounds, each drawn evenly from zero to the bound."""

    def __init__(
        self, *, first_s: float, longest_s: float, rng: random.Random | None = None
    ) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._rng = rng or random.SystemRandom()
        self._bound_s = first_s

    def reset(self) -> None:
        """After a success."""
        self._bound_s = self._first_s

    def next_s(self) -> float:
        """Seconds to wait now."""
        wait = self._rng.uniform(0, self._bound_s)
        self._bound_s = min(self._longest_s, self._bound_s * 2)
        return wait
