"""Scans from a PACS and results back to it. Needs the `server` extra."""
