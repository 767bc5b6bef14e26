"""Fakes and conformance suites, shipped so that plugins run them."""
