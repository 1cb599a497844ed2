"""`python -m simulations.scenarios`: the same as `fedpipe scenario`."""

from __future__ import annotations

import sys

from fedpipe.entry import own_packages_first, run_command


def main() -> None:
    """Runs the command line."""
    from simulations.scenarios.command import app

    run_command(app, sys.argv[1:], name="python -m simulations.scenarios")


if __name__ == "__main__":
    own_packages_first()
    main()
