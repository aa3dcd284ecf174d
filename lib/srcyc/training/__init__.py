"""Training of the four networks, from scans on disk to a published model file."""
