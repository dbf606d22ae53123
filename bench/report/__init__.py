"""From run folders to text: tables of runs, one run in full, one sample in full."""
