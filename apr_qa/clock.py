"""The time of day, in the one form that evidence knows."""

from __future__ import annotations

import datetime as dt


def now() -> str:
    """Return the time as RFC 3339 in UTC, to the millisecond."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
