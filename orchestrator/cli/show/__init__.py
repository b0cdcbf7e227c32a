"""Everything that a person reads, and the only place with Rich and matplotlib."""
