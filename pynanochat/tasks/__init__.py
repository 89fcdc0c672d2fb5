"""Benchmarks and conversation sets, one file each."""

from pynanochat.tasks.base import Task, TaskData

__all__ = ["Task", "TaskData"]
