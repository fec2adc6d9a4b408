"""`python -m intermodal`: the command `intermodal`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from intermodal.cli import main

    sys.exit(main())
