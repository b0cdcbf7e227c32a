"""What measures a node and the way to others, in a process of its own: it imports torch, and ends."""
