"""Routes by area; each module has one ``router``."""
