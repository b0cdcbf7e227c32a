"""Which node, GPU or link is bad: what is measured in which round, and what the figures say. Pure: nothing is
started here; ``agent/check/`` measures on a node, ``cluster/check.py`` asks the nodes."""
