"""The step `synthesize`: sources, the plan of shards, and the task that makes one."""
