"""Masked language models: pseudo-log-likelihoods, which are no likelihoods but compare like them."""
