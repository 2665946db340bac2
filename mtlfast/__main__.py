"""``python -m mtlfast``: the command line."""

import sys

from mtlfast.cli import main

sys.exit(main())
