"""Weights on disk: discovery, memory estimates and the hardware to place them on."""
