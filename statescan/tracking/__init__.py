"""Tracking by detection: models of motion, MambaTrack's predictor among them, and a tracker."""

from . import mot_files
from .association import assign
from .motion import ConstantVelocity, Kalman, Motion, Stationary
from .predictor import ChangeUnit, LearnedMotion, MotionPredictor
from .tracker import MambaTracker
from .windows import Windows, tracks, windows

__all__ = [
    "ChangeUnit",
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
