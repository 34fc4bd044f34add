# SPDX-License-Identifier: Apache-2.0
"""Amounts as operators write them: bytes (64Mi), durations (10m) and shares (95%).

Each has an upper bound that no use comes near, so that what is computed from it fits
into what carries it.
"""

import re
from datetime import timedelta
from fractions import Fraction
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator

MAX_BYTES: Final = 2**40
MAX_DURATION: Final = timedelta(days=366)

_BYTES = re.compile(r"(\d{1,16})(Ki|Mi|Gi|k|M|G)?")
_FACTORS: Final = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30,
}  # fmt: skip
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?")
_DURATION_LENGTH: Final = 64  # characters
_PERCENT = re.compile(r"(\d{1,3})%")


def parse_bytes(text: str) -> int:
    """`64Mi` → 67108864. Raises ValueError."""
    match = _BYTES.fullmatch(text)
    if match is None:
        raise ValueError(
            f"expected an amount of bytes such as 64Mi, found {text!r:.40}"
        )
    found = int(match[1]) * _FACTORS[match[2] or ""]
    if found > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES} bytes, found {text!r:.40}")
    return found


def parse_duration(text: str) -> timedelta:
    """`1h30m` → 90 minutes. Raises ValueError."""
    match = _DURATION.fullmatch(text) if len(text) <= _DURATION_LENGTH else None
    if match is None or not text:
        raise ValueError(f"expected a duration such as 10m or 24h, found {text!r:.40}")
    hours, minutes, seconds, millis = (int(part or 0) for part in match.groups())
    total = ((hours * 60 + minutes) * 60 + seconds) * 1000 + millis
    if total > MAX_DURATION // timedelta(milliseconds=1):
        raise ValueError(f"expected at most {MAX_DURATION.days} d, found {text!r:.40}")
    return timedelta(milliseconds=total)


def duration_within(
    text: str, *, least: timedelta, most: timedelta = MAX_DURATION
) -> str:
    """Return `text`, a duration between two others. Raises ValueError."""
    if not least <= parse_duration(text) <= most:
        raise ValueError(f"expected {least} to {most} (h:mm:ss), found {text!r:.40}")
    return text


def parse_share(text: str) -> Fraction:
    """`95%` → 19/20. Raises ValueError."""
    match = _PERCENT.fullmatch(text)
    if match is None or int(match[1]) > 100:  # noqa: PLR2004 - per cent
        raise ValueError(f"expected a share from 0% to 100%, found {text!r:.40}")
    return Fraction(int(match[1]), 100)


def parse_limit(value: int | str, *, of: int) -> int:
    """Devices that `3` or `10%` of `of` devices are; a share is at least one device."""
    if isinstance(value, int):
        return min(value, of)
    return min(of, max(1, int(parse_share(value) * of))) if of else 0


def _checked_bytes(text: str) -> str:
    parse_bytes(text)
    return text


def _checked_duration(text: str) -> str:
    parse_duration(text)
    return text


def _checked_share(text: str) -> str:
    parse_share(text)
    return text


def _checked_limit(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a number of devices or a share such as 10%")  # noqa: TRY004 - pydantic wants ValueError
    if isinstance(value, str):
        parse_share(value)
    elif value < 1:
        raise ValueError(f"expected at least 1, found {value}")
    return value


Bytes = Annotated[str, AfterValidator(_checked_bytes)]
Duration = Annotated[str, AfterValidator(_checked_duration)]
Share = Annotated[str, AfterValidator(_checked_share)]
Limit = Annotated[int | str, BeforeValidator(_checked_limit)]
