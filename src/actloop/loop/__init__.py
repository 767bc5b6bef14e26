"""The real-time loop: clock, schedule, inference, episode, event log. No torch, no simulator."""
