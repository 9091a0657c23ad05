"""``python -m tilework``: the command line."""

import sys

from tilework.cli.main import main

sys.exit(main())
