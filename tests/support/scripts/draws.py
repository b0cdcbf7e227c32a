"""Prints numbers that no one has seeded."""

import random
import uuid
from multiprocessing import current_process

import numpy
import torch

print(
    random.random(), numpy.random.rand(), torch.rand(1).item(), uuid.uuid4(), current_process().authkey.hex()
)
