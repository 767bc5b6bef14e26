"""A stack file: which model thinks at which layer, where it runs, how often, and what it may cost."""
