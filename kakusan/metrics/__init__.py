"""Numbers about samples, each with what it was measured against."""
