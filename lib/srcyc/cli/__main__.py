"""`python -m srcyc.cli`."""

import sys

from srcyc.cli import main

sys.exit(main())
