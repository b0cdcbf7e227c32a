"""Serving a trained model: the accelerators that a load takes, how they work, and what they cost a day."""
