"""One step: its operations, the seconds and bytes they take on a machine, and what measured runs say of
that."""
