"""One training process: what is inside it and how it is started. It knows no Ray, no MLflow, no Hydra.

`runner` runs the script, `link` ties it to its agent, `probes` tell what DeepSpeed does, and `inner` what the
Python inside of a shell script does; `launch` starts it, by exec or by a fork from a zygote.
"""
