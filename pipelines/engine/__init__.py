"""What every step shares: commits, runs, the command line, the cluster, tasks, progress and signals."""
