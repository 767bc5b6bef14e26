"""Robot data on disk: LeRobotDataset v3.0 reading and writing, windows, statistics, a decoded cache."""
