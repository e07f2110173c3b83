"""Ways to start a stage on more than one process; each prints the exact commands that it runs."""
