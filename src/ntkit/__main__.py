"""`python -m ntkit`: the command line, for where the script `ntkit` is not on the path."""

import sys

from ntkit_command import main

if __name__ == "__main__":
    sys.exit(main())
