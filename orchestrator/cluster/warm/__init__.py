"""A cluster that stays: its record on this machine, its Ray, and what keeps torch imported on every node."""
