"""One episode as swim lanes, from its event log: what was asked, what came back, what the robot did meanwhile."""

from collections.abc import Mapping, Sequence
from typing import Any

from actloop.report.markup import label, line, svg, tag

Event = Mapping[str, Any]
LEFT = 104.0
WIDEST = 1400.0  # user units of the longest episode; shorter ticks beyond it
LANES = {"ask": 34.0, "executed": 74.0, "hold": 118.0, "age": 142.0}  # top edges
HEIGHTS = {"ask": 24.0, "executed": 34.0, "hold": 14.0, "age": 44.0}
BOTTOM = 222.0


def timeline(events: Sequence[Event], *, class_: str, title: str) -> str:
    """The drawing of one episode; empty where the log holds no tick."""
    started = next((event for event in events if event["event"] == "started"), None)
    ticks = [event for event in events if event["event"] == "ticked"]
    if started is None or not ticks:
        return ""
    scale = _Scale(period=started["period"], ticks=len(ticks))
    parts = [
        _grid(scale),
        *_requests(events, scale),
        *_executed(ticks, scale, int(started["horizon"])),
        *_holds(ticks, scale),
        *_ages(ticks, scale),
        _end(events, scale),
    ]
    return svg(scale.width, BOTTOM, *_names(), *parts, label=title, class_=f"timeline {class_}")


class _Scale:
    def __init__(self, *, period: float, ticks: int) -> None:
        self.period, self.ticks = period, ticks
        self.step = max(3.0, min(11.0, (WIDEST - LEFT) / ticks))
        self.width = LEFT + ticks * self.step + 90

    def x(self, time: float) -> float:
        return LEFT + time / self.period * self.step


def _names() -> list[str]:
    names = {"ask": "model thinks", "executed": "action of chunk", "hold": "held", "age": "age of view"}
    return [label(name, LEFT - 10, LANES[lane] + HEIGHTS[lane] / 2 + 4, anchor="end") for lane, name in names.items()]


def _grid(scale: _Scale) -> str:
    drawn = []
    per_second = max(1, round(1 / scale.period))
    for tick in range(scale.ticks + 1):
        x = LEFT + tick * scale.step
        whole = tick % per_second == 0
        if whole:
            drawn.append(label(f"{tick // per_second} s", x, 18, anchor="middle"))
        if whole or scale.step >= 6:
            drawn.append(line(x, 24, x, LANES["age"] + HEIGHTS["age"], "grid second" if whole else "grid"))
    return "".join(drawn)


def _requests(events: Sequence[Event], scale: _Scale) -> list[str]:
    """A bar from each question to its answer; a cross where it was dropped, an open end where none came."""
    replies = {event["plan"]: event for event in events if event["event"] == "replied"}
    end = scale.ticks * scale.period
    drawn = []
    top, height = LANES["ask"], HEIGHTS["ask"]
    for event in events:
        if event["event"] != "requested":
            continue
        reply = replies.get(event["plan"])
        from_, to = scale.x(event["time"]), scale.x(reply["time"] if reply else end)
        state = "pending" if reply is None else "accepted" if reply["accepted"] else "dropped"
        drawn.append(
            tag(
                "rect",
                _hint(event, reply),
                x=from_,
                y=top,
                width=max(to - from_, 2.0),
                height=height,
                rx=3,
                class_=f"ask {state}",
            )
        )
        if state == "dropped":
            drawn.append(label("×", to - 2, top + height / 2 + 5, anchor="end", class_="cross"))
        elif to - from_ > 16:
            drawn.append(label(event["plan"], (from_ + to) / 2, top + height / 2 + 4, anchor="middle", class_="inside"))
    return drawn


def _hint(event: Event, reply: Event | None) -> str:
    said = f"plan {event['plan']}, asked at {event['time']:.2f} s ({event['why']})"
    if reply is None:
        said += ", no answer before the end"
    elif reply["accepted"]:
        said += f", came at {reply['time']:.2f} s, {reply['skipped']} of its actions were overtaken"
    else:
        said += f", dropped at {reply['time']:.2f} s ({reply['reason']})"
    return tag("title", said)


def _executed(ticks: Sequence[Event], scale: _Scale, horizon: int) -> list[str]:
    """Per tick the index of the executed action in its chunk, as a height; neighbouring plans differ in shade."""
    drawn = []
    bottom = LANES["executed"] + HEIGHTS["executed"]
    for number, event in enumerate(ticks):
        if event["hold"]:
            continue
        height = HEIGHTS["executed"] * (event["index"] + 1) / max(horizon, 1)
        hint = tag("title", f"tick {event['tick']}: action {event['index']} of plan {event['plan']}")
        x = LEFT + number * scale.step
        shade = "odd" if event["plan"] % 2 else "even"
        drawn.append(
            tag("rect", hint, x=x + 0.5, y=bottom - height, width=scale.step - 1, height=height, class_=f"did {shade}")
        )
    return drawn


def _holds(ticks: Sequence[Event], scale: _Scale) -> list[str]:
    return [
        tag(
            "rect",
            tag("title", f"tick {event['tick']}: held, {event['hold']}"),
            x=LEFT + number * scale.step + 0.5,
            y=LANES["hold"],
            width=scale.step - 1,
            height=HEIGHTS["hold"],
            class_=f"hold {'starved' if event['hold'] == 'starved' else 'late'}",
        )
        for number, event in enumerate(ticks)
        if event["hold"]
    ]


def _ages(ticks: Sequence[Event], scale: _Scale) -> list[str]:
    """The age of the observation behind each action, as a step line with the largest value written beside it."""
    oldest = max((event["age"] or 0.0 for event in ticks), default=0.0)
    if oldest <= 0:
        return []
    bottom, height = LANES["age"] + HEIGHTS["age"], HEIGHTS["age"] - 6
    path, pen = [], "M"
    for number, event in enumerate(ticks):
        if event["age"] is None:
            pen = "M"
            continue
        x, y = LEFT + number * scale.step, bottom - height * event["age"] / oldest
        path.append(f"{pen}{x:.1f} {y:.1f}H{x + scale.step:.1f}")
        pen = "L"
    at = LEFT + scale.ticks * scale.step + 8
    return [
        tag("path", d="".join(path), class_="age"),
        line(LEFT, bottom, at - 8, bottom, "grid second"),
        label(f"up to {1000 * oldest:.0f} ms", at, bottom - height + 8),
    ]


def _end(events: Sequence[Event], scale: _Scale) -> str:
    ended = next((event for event in events if event["event"] == "ended"), None)
    x = LEFT + scale.ticks * scale.step
    if ended is None:
        return label("log ends", x + 8, LANES["ask"] + 16)
    word = "success" if ended["success"] else "failure"
    drawn = line(x, 24, x, LANES["age"] + HEIGHTS["age"], f"end {word}")
    drawn += label(f"{'✓' if ended['success'] else '✗'} {word}", x + 8, LANES["ask"] + 12, class_=word)
    return drawn + label(ended["reason"], x + 8, LANES["ask"] + 28)
