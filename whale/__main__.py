"""`python -m whale` is `whale`."""

import sys

from whale.cli import main

if __name__ == "__main__":
    sys.exit(main())
