"""The studies folder: the scans, what is known of them, and how they come and go."""
