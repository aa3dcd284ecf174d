"""What the module SRCyc is made of; `client` and `worker` run outside Slicer too."""
