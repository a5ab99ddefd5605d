"""Reads runs, never makes them: frames, scores over seeds, tails, figures and one report.

import analysis
frame = analysis.load("latest")
analysis.analyze("latest").folder
"""

from analysis.frames import GridFrame, load
from analysis.report import Report, analyze
from analysis.style import looks
from analysis.tails import tail_frame

__all__ = ["GridFrame", "Report", "analyze", "load", "looks", "tail_frame"]
