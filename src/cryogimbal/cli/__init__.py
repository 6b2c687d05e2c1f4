"""Commands: read flags and files, run the search, show and write what it finds."""
