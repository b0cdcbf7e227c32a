"""The only folder that imports MLflow: a process of its own reads a run's journal and tells it."""
