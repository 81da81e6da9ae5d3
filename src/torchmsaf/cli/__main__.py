"""``python -m torchmsaf.cli``."""

import sys

from torchmsaf.cli import main

if __name__ == "__main__":
    sys.exit(main())
