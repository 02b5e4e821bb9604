"""Figures of a running datarun, each beside a bound that was measured in the same run: `make bench`."""
