"""Speed and quality against other attack libraries: `make bench`, one command, one table."""
