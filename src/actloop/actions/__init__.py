"""How actions are represented between a model and a robot: normalisers, tokenisers, rotations."""
