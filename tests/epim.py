"""The epim command of this checkout, for processes that tests start: ``python -m tests.epim``."""

import sys

from epimlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
