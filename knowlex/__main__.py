"""`python -m knowlex` is `knowlex`."""

import sys

from knowlex.cli import main

if __name__ == "__main__":
    sys.exit(main())
