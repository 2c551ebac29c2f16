"""What every benchmark shares: records, timing, estimates, tables."""
