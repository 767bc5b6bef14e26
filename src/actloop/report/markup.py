"""Elements of HTML and SVG as strings, everything escaped that could come from outside."""

from html import escape


def tag(name: str, *content: str, **attributes: object) -> str:
    """An element; `content` is markup already. `class_` and `stroke_width` become `class` and `stroke-width`."""
    listed = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return f"<{name}{listed}>{''.join(content)}</{name}>"


def text(value: object) -> str:
    """Any value as text between tags."""
    return escape(str(value), quote=False)


def svg(width: float, height: float, *content: str, label: str, class_: str = "") -> str:
    """A drawing `width` by `height` user units, with a name for those who cannot see it."""
    return tag(
        "svg",
        tag("title", text(label)),
        *content,
        viewBox=f"0 0 {_plain(width)} {_plain(height)}",
        width=width,
        height=height,
        role="img",
        class_=class_ or None,
    )


def label(value: object, x: float, y: float, *, anchor: str = "start", class_: str = "") -> str:
    """Text in a drawing."""
    return tag("text", text(value), x=x, y=y, text_anchor=anchor, class_=class_ or None)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def table(head: list[str], rows: list[list[str]], *, caption: str = "", class_: str = "") -> str:
    """A table of markup cells; the first cell of each row is its heading. It scrolls by itself where it is too wide."""
    caption = tag("caption", caption) if caption else ""
    heads = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    return tag("div", tag("table", caption, heads, tag("tbody", *body), class_=class_ or None), class_="scroll")


def _plain(value: object) -> str:
    if value is True:
        return ""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
