# a model for processors, to see that it learns
backend = "gloo"
device = "cpu"
max_iters = 20
save_interval = 5
batch_size = 8
n_embd = 24
