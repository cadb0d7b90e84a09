"""What `pipelines/synthesize.py` is made of: sources, the plan of shards, and the task that makes one."""
