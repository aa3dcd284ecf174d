"""Volumes: their grid in the world, and the files that hold them."""
