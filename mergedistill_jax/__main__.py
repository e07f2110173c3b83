"""`python -m mergedistill_jax STAGE ...`, the same as the console command `mergedistill`."""

import sys

from mergedistill_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
