"""Jobs of a cluster: scripts for Slurm, the queue of a sweep, and how a job names its directory."""
