"""The MONAI Label app, the server around it, the page that compares, and the module for 3D Slicer."""
