"""The file formats of volumes, one module each; :mod:`srcyc.volumes.image_files` is the table of them."""
