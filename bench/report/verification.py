"""What `bench verify` found."""

from __future__ import annotations

from bench.report.text import plural
from bench.verify import Verification


def render_verification(found: Verification) -> str:
    """A few lines: what was compared with what, and how far apart it is."""
    flips = f" ({', '.join(found.flips)})" if found.flips else ""
    return "\n".join((
        f"the run holds: {plural(found.num_rescored, 'sample')} of {found.num_samples} scored again in plain fp32, one request at a time",
        f"  largest difference  {found.max_difference:.2e} in loglikelihood (allowed: {found.tolerance:g} a token)",
        f"  mean difference     {found.mean_difference:.2e}",
        f"  flips               {found.num_flips}{flips}",
    ))  # fmt: skip
