"""How each plot is drawn; `bench.report.plots` says which there are."""
