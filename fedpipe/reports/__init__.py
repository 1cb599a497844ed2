"""What a run tells people: its summary and its report."""

from fedpipe.reports.summary import RunSummary

__all__ = ["RunSummary"]
