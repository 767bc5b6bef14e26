"""Does reality follow the prediction? Scores, their calibration, and what they may look at. No torch, no loop."""
