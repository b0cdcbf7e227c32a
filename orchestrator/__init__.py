"""orchestrator: turns scarce, expensive GPUs into trained models, and accounts for every dollar."""

__version__ = "0.1.0"
