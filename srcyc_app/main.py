"""What MONAI Label loads, and a script: `python srcyc_app/main.py --help`."""

if __name__ == "__main__":
    # First: help need not wait for MONAI Label.
    import sys

    from srcyc_app.script import main

    sys.exit(main())

from srcyc_app.app import SRCycApp

__all__ = ["SRCycApp"]
