"""A folder that is put on PYTHONPATH, for its `sitecustomize`."""
