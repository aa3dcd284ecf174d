"""The hardened server of `srcyc serve`: MONAI Label's protocol with routes of its own."""
