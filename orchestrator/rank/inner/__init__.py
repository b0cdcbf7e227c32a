"""A rank that is a program other than Python, a shell script say: the Python process inside of it that trains
is seen.

```text
rank            waits for the program; passes on to the agent what the one below says   `listener`
└─ ./train.sh   has `hook/` on PYTHONPATH
   └─ python    its hook waits for an import of torch or MLflow                          `hook`
                then attaches the probes, and speaks once it has something to say        `process`
```

Who has something to say first, a step or a checkpoint for instance, speaks for the rank until it ends; of
what a launcher within has started only the first worker may.
"""
