"""The MONAI Label app that serves SRCyc to 3D Slicer."""
