"""The page: one self-contained file that shows a comparison to somebody who was not there."""

from actloop.report.page import write_page

__all__ = ["write_page"]
