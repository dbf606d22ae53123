"""Tasks: from a YAML file and its rows to samples, prompts and requests."""
