"""Models that act, each file readable beside its paper, and the policy that carries one to physical units."""
