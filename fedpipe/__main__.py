"""`python -m fedpipe`."""

from fedpipe.start import main

if __name__ == "__main__":
    main()
