"""Releases that replicas take over by themselves: how they get one, and the wait until all have it."""
