"""Read runs, never make them: frames, scores over seeds, tails, figures and one report.

from alpkit import analysis
frame = analysis.load("latest")
analysis.analyze("latest").folder
"""

from alpkit.analysis.figures.style import looks
from alpkit.analysis.frames import GridFrame, load
from alpkit.analysis.report.write import Report, analyze
from alpkit.analysis.tables.tails import tail_frame

__all__ = ["GridFrame", "Report", "analyze", "load", "looks", "tail_frame"]


def __dir__() -> list[str]:
    """Name what is public, so that completion does not offer every module that an import has touched."""
    return __all__
