"""Run folders: written so that any process may be killed at any moment, and read."""
