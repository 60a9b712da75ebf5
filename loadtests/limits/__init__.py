"""Runs that hold limits and breakers to their promise, judged by the simulator's log."""
