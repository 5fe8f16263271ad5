"""What TVM does, in a process of its own: a crash of its compiler or of a kernel ends that process and nothing else."""
