"""The file formats of volumes, one module each; :mod:`srcyc.image_files` is the table of them."""
