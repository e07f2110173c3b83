"""The console command `mergedistill`, and `python -m mergedistill_jax STAGE ...`, which is the same."""

import sys

from mergedistill_jax.interrupts import interruptible


def main() -> int:
    """Runs the command line; its exit status, see cli.main."""
    return interruptible(_main)


def _main() -> int:
    from mergedistill_jax.cli import main  # noqa: PLC0415 - Ctrl-C may come while it is imported

    return main()


if __name__ == "__main__":
    sys.exit(main())
