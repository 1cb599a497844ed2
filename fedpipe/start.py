"""Where the `fedpipe` command begins: an interrupt during imports is one line too."""

import sys


def main() -> None:
    """Runs the `fedpipe` command."""
    try:
        from fedpipe.entry import own_packages_first

        own_packages_first()
        from fedpipe.cli import main as command

        command()
    except KeyboardInterrupt:
        print("fedpipe: interrupted. Nothing was begun.", file=sys.stderr)  # noqa: T201  the one line
        sys.exit(130)
