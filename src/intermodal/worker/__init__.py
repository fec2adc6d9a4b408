"""The worker: the agent of one machine, which runs containers and builds images."""
