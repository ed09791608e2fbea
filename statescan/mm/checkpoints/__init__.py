"""Checkpoint files and the weights in them: written whole, read safely, translated."""
