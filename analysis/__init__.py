"""Reads runs, never makes them: frames, scores over seeds, tails, figures and one report.

import analysis
frame = analysis.load("latest")
analysis.analyze("latest").folder
"""

from analysis.frames import GridFrame, load
from analysis.report import Report, analyze

__all__ = ["GridFrame", "Report", "analyze", "load"]
