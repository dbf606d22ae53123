"""Set-up that all tests share."""

from __future__ import annotations

from hypothesis import settings

# The same examples each time, so that a red run always means a change; `--hypothesis-profile=thorough` looks further.
settings.register_profile("quick", max_examples=30, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile("quick")
