"""One episode as swim lanes: what was asked of each layer, what came back, what the robot did meanwhile."""

from collections.abc import Mapping, Sequence
from typing import Any

from actloop.report.episode import Asked, layers_of, questions
from actloop.report.markup import label, line, svg, tag, text

Event = Mapping[str, Any]
LEFT = 104.0
WIDEST = 1400.0  # user units of the longest episode; shorter ticks beyond it
TOP, ASK, LANE = 34.0, 24.0, 30.0  # of the first layer's lane, of its bars, from lane to lane
BELOW = {"executed": 10.0, "hold": 54.0, "age": 78.0}  # top edges, below the lanes of the layers
HEIGHTS = {"executed": 34.0, "hold": 14.0, "age": 44.0}


def timeline(events: Sequence[Event], *, class_: str, title: str) -> str:
    """The drawing of one episode; empty where the log holds no tick, or is an older version's."""
    started = next((event for event in events if event["event"] == "started"), None)
    ticks = [event for event in events if event["event"] == "ticked"]
    if started is None or not ticks:
        return ""
    try:
        asked = questions(events)
    except KeyError:
        return ""
    scale = _Scale(period=started["period"], ticks=len(ticks), layers=layers_of(asked))
    parts = [
        _grid(scale),
        *_asked(asked, scale),
        *_executed(ticks, scale, int(started["horizon"])),
        *_holds(ticks, scale),
        *_ages(ticks, scale),
        *_incidents(events, scale),
        *_helped(ticks, scale),
        _end(events, scale),
    ]
    return svg(scale.width, scale.bottom + 36, *_names(scale), *parts, label=title, class_=f"timeline {class_}")


class _Scale:
    def __init__(self, *, period: float, ticks: int, layers: Sequence[str]) -> None:
        self.period, self.ticks, self.layers = period, ticks, layers
        self.step = max(3.0, min(11.0, (WIDEST - LEFT) / ticks))
        self.width = LEFT + ticks * self.step + 90
        self._below = TOP + LANE * max(len(layers), 1)

    def x(self, time: float) -> float:
        return LEFT + time / self.period * self.step

    def top(self, lane: str) -> float:
        """Of the lane of a layer, or of one of those below."""
        return self._below + BELOW[lane] if lane in BELOW else TOP + LANE * self.layers.index(lane)

    @property
    def bottom(self) -> float:
        return self.top("age") + HEIGHTS["age"]


def _names(scale: _Scale) -> list[str]:
    names = {layer: "model thinks" if layer == "action" else layer for layer in scale.layers}
    names |= {"executed": "action of chunk", "hold": "held", "age": "age of view"}
    return [
        label(name, LEFT - 10, scale.top(lane) + HEIGHTS.get(lane, ASK) / 2 + 4, anchor="end")
        for lane, name in names.items()
    ]


def _grid(scale: _Scale) -> str:
    drawn = []
    per_second = max(1, round(1 / scale.period))
    for tick in range(scale.ticks + 1):
        x = LEFT + tick * scale.step
        whole = tick % per_second == 0
        if whole:
            drawn.append(label(f"{tick // per_second} s", x, 18, anchor="middle"))
        if whole or scale.step >= 6:
            drawn.append(line(x, 24, x, scale.bottom, "grid second" if whole else "grid"))
    return "".join(drawn)


def _asked(asked: Sequence[Asked], scale: _Scale) -> list[str]:
    """A bar from each question to its answer; a cross where it was dropped, an open end where none came."""
    end = scale.ticks * scale.period
    drawn = []
    for one in asked:
        top = scale.top(one.layer)
        from_, to = scale.x(one.asked), scale.x(end if one.answered is None else one.answered)
        state = "dropped" if one.fate == "failed" else one.fate
        hint = tag("title", text(one.words))
        bar = {"x": from_, "y": top, "width": max(to - from_, 2.0), "height": ASK, "rx": 3}
        drawn.append(tag("rect", hint, **bar, class_=f"ask {state}"))
        if state == "dropped":
            drawn.append(label("×", to - 2, top + ASK / 2 + 5, anchor="end", class_="cross"))
        elif to - from_ > 16:
            drawn.append(label(one.plan, (from_ + to) / 2, top + ASK / 2 + 4, anchor="middle", class_="inside"))
        if one.alarm:
            drawn.append(label("!", (from_ + to) / 2, top - 2, anchor="middle", class_="cross"))
    return drawn


def _executed(ticks: Sequence[Event], scale: _Scale, horizon: int) -> list[str]:
    """Per tick the index of the executed action in its chunk, as a height; neighbouring plans differ in shade."""
    drawn = []
    bottom = scale.top("executed") + HEIGHTS["executed"]
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
            y=scale.top("hold"),
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
    bottom, height = scale.bottom, HEIGHTS["age"] - 6
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


def _incidents(events: Sequence[Event], scale: _Scale) -> list[str]:
    """A line where something that was made to go wrong begins, or ends."""
    drawn = []
    for event in events:
        if event["event"] == "incident":
            x = scale.x(event["time"])
            hint = tag("title", text(f"{event['fault']} {event['phase']} at {event['time']:.1f} s"))
            drawn.append(tag("g", hint, line(x, 24, x, scale.bottom, "incident")))
            if event["phase"] == "begins":
                drawn.append(label(event["fault"], x + 3, scale.bottom + 16, class_="incident-name"))
    return drawn


def _helped(ticks: Sequence[Event], scale: _Scale) -> list[str]:
    """Where a person had the robot."""
    hint = tag("title", "a person had the robot")
    return [
        tag(
            "rect",
            hint,
            x=LEFT + number * scale.step,
            y=24,
            width=scale.step,
            height=scale.bottom - 24,
            class_="helped",
        )
        for number, event in enumerate(ticks)
        if event.get("rung") == "human"
    ]


def _end(events: Sequence[Event], scale: _Scale) -> str:
    ended = next((event for event in events if event["event"] == "ended"), None)
    x = LEFT + scale.ticks * scale.step
    if ended is None:
        return label("log ends", x + 8, TOP + 16)
    word = "success" if ended["success"] else "failure"
    drawn = line(x, 24, x, scale.bottom, f"end {word}")
    drawn += label(f"{'✓' if ended['success'] else '✗'} {word}", x + 8, TOP + 12, class_=word)
    return drawn + label(ended["reason"], x + 8, TOP + 28)
