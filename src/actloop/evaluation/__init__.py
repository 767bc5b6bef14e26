"""Closed-loop comparison of policies, with intervals."""
