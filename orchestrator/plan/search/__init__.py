"""Which layout is the fastest that fits, what it won against, and what would make a job fit."""
