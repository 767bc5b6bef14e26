"""Worlds that step on the loop's clock: they move while the model thinks."""
