"""What this machine is, and how fast it can multiply matrices."""
