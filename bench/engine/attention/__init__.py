"""Attention over a pack: one contract, several backends, tested against each other.

`interface` hands transformers' models our function; `reference` is the plain mathematics, with every feature;
`sdpa` runs the attention plan on CPU; `varlen` runs it on CUDA.
"""
