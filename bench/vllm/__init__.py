"""Local models that vLLM runs, in this process: an optional backend."""
