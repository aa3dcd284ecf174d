"""Unpaired training data: which scan belongs to which domain, and how patches are drawn from it."""
