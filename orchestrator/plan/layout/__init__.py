"""How ranks share the work: degrees of parallelism, what ZeRO shards, what DeepSpeed runs together."""
