"""How a rank is started: by exec, or by a fork from a zygote that has imported everything already."""
