"""Event logs that survive the robot's process, and replay.

encoding.py, lines.py  events as bytes, bytes as JSON lines    journal.py  through a pipe to a writer of its own
decided.py, replay.py  decide again what a log says, and compare
"""
