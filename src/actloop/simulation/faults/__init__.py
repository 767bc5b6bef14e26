"""Faults by schedule and seed, and the world that makes them happen in another."""

from actloop.simulation.faults.disturbed import Disturbed, Eventful
from actloop.simulation.faults.effects import KINDS, FaultKind, Moment
from actloop.simulation.faults.plan import (
    Fault,
    Incident,
    fault_from_dict,
    incident_from_dict,
    parse_fault,
    parse_faults,
)

__all__ = [
    "KINDS",
    "Disturbed",
    "Eventful",
    "Fault",
    "FaultKind",
    "Incident",
    "Moment",
    "fault_from_dict",
    "incident_from_dict",
    "parse_fault",
    "parse_faults",
]
