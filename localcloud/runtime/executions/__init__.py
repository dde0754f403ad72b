"""Executions of jobs: replicas that run a command to its end, several at a time and again when they fail."""

from localcloud.runtime.executions.runner import Executions

__all__ = ["Executions"]
