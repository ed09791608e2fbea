"""Tracking by detection: models of motion, MambaTrack's predictor among them, and a tracker."""

from . import mot_files
from .association import assign
from .motion import ConstantVelocity, Kalman, Motion, Stationary
from .predictor import LearnedMotion, MotionPredictor
from .tracker import MambaTracker
from .windows import Windows, tracks, windows

__all__ = [
    "ConstantVelocity",
    "Kalman",
    "LearnedMotion",
    "MambaTracker",
    "Motion",
    "MotionPredictor",
    "Stationary",
    "Windows",
    "assign",
    "mot_files",
    "tracks",
    "windows",
]
