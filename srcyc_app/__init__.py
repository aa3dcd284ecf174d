"""The MONAI Label app that will serve SRCyc to 3D Slicer; nothing is here yet."""
