"""Super-resolution of whole volumes with a published model."""
