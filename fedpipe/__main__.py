"""`python -m fedpipe`."""

from fedpipe.entry import own_packages_first

if __name__ == "__main__":
    own_packages_first()
    from fedpipe.cli import main

    main()
