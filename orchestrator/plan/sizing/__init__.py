"""What a budget or a deadline can train: the model, its tokens, the cluster's size."""
