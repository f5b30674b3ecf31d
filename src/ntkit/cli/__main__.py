"""`python -m ntkit.cli`, for where the script `ntkit` is not on the path."""

import sys

from ntkit_command import main

sys.exit(main())
