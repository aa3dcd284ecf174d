"""Trainers of the app."""
