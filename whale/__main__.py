"""`python -m whale` is `whale`; torchrun and srun start it this way."""

import sys

from whale.cli import main

if __name__ == "__main__":
    sys.exit(main())
