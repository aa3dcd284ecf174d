"""Comparison of super-resolved volumes with the truth and with classical interpolation."""
