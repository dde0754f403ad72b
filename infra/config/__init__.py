"""Stages, settings and parameters files, read and validated into values."""
