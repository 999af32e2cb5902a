"""A history as a bar: one SVG for the eye, a summary in words, and the table behind it."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final

from gateway.pages import lasting
from gateway.rows import when
from luna_grpc.history import Span, State, Window, coarse

DAY: Final = 24 * 3600 * 1000
"""Milliseconds that a bar shows."""
SLOTS: Final = 144
"""Parts of a bar: ten minutes each."""
_MOST_ROWS: Final = 50
_SECOND: Final = 1000
_MOONS: Final = {State.OK: "full", State.DOWN: "new", State.DRAINED: "shaded", State.GONE: "gone", State.UNKNOWN: "unknown"}
_WORDS: Final = {
    State.OK: "up",
    State.DOWN: "down",
    State.DRAINED: "drained",
    State.GONE: "not registered",
    State.UNKNOWN: "unknown",
}


def last_day(now: int, known_since: int) -> Window:
    """Return the window that a bar shows."""
    return Window(now - DAY, now, known_since)


def bar(spans: Sequence[Span], window: Window) -> dict[str, Any]:
    """Return what the template draws."""
    latest = list(reversed(spans))
    return {
        "slots": SLOTS,
        "pieces": _pieces(coarse(spans, window, SLOTS)),
        "summary": summary(spans),
        "spans": [_row(span, window) for span in latest[:_MOST_ROWS]],
        "more": max(0, len(latest) - _MOST_ROWS),
    }


def summary(spans: Iterable[Span]) -> str:
    """Say in a sentence how it was."""
    spans = list(spans)
    time = {state: sum(span.length for span in spans if span.state is state) for state in State}
    known = time[State.OK] + time[State.DOWN]
    others = [f"{_WORDS[state]} for {lasting(time[state])}" for state in (State.DRAINED, State.GONE) if time[state] >= _SECOND]
    whole = sum(time.values())
    of = "the last 24 h" if time[State.UNKNOWN] < _SECOND else f"the {lasting(whole - time[State.UNKNOWN])} that are known"
    if not known:
        return f"In {of}: {' and '.join(others)}." if others else "In the last 24 h: nothing is known."
    downs = sum(span.state is State.DOWN for span in spans)
    times = {0: "", 1: ", down once"}.get(downs, f", down {downs} times")
    down = f"{times} for {lasting(time[State.DOWN])}{' in all' if downs > 1 else ''}" if downs else ", never down"
    rest = f"; {' and '.join(others)}" if others else ""
    return f"In {of}: up {_percent(time[State.OK], known)}{down}{rest}."


def _percent(part: int, whole: int) -> str:
    """Round so that only all of it is 100 %."""
    return f"{min(part * 100 / whole, 100 if part == whole else 99.9):.4g} %"


def _pieces(slots: Iterable[State]) -> list[dict[str, Any]]:
    pieces, at = [], 0
    for state, group in groupby(slots):
        width = len(list(group))
        pieces.append({"x": at, "width": width, "moon": _MOONS[state]})
        at += width
    return pieces


def _row(span: Span, window: Window) -> dict[str, Any]:
    now = window.end
    return {
        "moon": _MOONS[span.state],
        "state": _WORDS[span.state],
        "begin": when(span.begin, now),
        "before": span.begin == window.begin,
        "end": when(span.end, now),
        "now": span.end == now,
        "length": lasting(span.length),
    }
