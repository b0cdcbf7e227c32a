"""What a rank tells of a script that knows nothing of us, read at DeepSpeed's own seams."""
