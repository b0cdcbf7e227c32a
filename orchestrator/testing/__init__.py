"""Contracts for what others write: classes to inherit in a test. They import no test runner; pytest runs
their methods.

`worker_group` holds a :class:`~orchestrator.supervise.worker_group.WorkerGroup` to what the supervise loop
counts on.
"""
