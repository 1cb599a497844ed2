"""One module for each format; its number is the revision."""
