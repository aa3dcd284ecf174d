"""What is seen of a run while it goes on, and what of it remains."""
