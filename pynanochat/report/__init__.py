"""The report of a run, from the files in its folder: `write_report(Path("runs/toy"))`, or `pynanochat report toy`."""

from pynanochat.report.compose import write_report
from pynanochat.report.environment import describe_environment

__all__ = ["describe_environment", "write_report"]
