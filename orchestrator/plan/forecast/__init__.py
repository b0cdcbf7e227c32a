"""A whole run: steps, interruptions, checkpoints, energy, dollars, and how sure that is."""
