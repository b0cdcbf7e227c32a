"""What is measured on one node by a check: its GPUs or processors, memory, disks, clock, counters."""
