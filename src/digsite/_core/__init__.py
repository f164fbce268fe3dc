"""What every room needs: errors, whole-file writes, cost, progress, intervals, provenance."""
