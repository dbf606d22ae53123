"""The core: each distinct token of a benchmark is computed once, exactly.

`encode` turns text into token ids, `tree` finds what they share, `pack` cuts the tree into forward passes (ints only);
`attention` and `scorer` execute them (tensors); `verify` checks the result against plain transformers.
"""
