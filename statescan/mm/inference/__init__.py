"""Trained models on images and videos: predicting, tracking, reading and writing media."""
