"""Modules on another machine: the wire, a server, and a place that asks it. No torch."""
