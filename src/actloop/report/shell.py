"""A page that needs nothing else: the template of its content, filled, in the shell that all pages share."""

from collections.abc import Mapping
from importlib import resources
from string import Template


def page(template: str, fields: Mapping[str, str]) -> str:
    """The page of a template with its fields, markup by name; `title` is also the page's own."""
    content = Template(packaged(template)).substitute(fields)
    shell = Template(packaged("shell.html"))
    return shell.substitute(title=fields["title"], style=packaged("style.css"), content=content)


def packaged(name: str) -> str:
    """The text of a file of this package."""
    return resources.files("actloop.report").joinpath(name).read_text(encoding="utf-8")
