"""From demonstrations to a checkpoint: recording and training."""
