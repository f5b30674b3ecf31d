"""`python -m ntkit.cli`, for where the script `ntkit` is not on the path."""

import sys

from ntkit.cli import main

sys.exit(main())
