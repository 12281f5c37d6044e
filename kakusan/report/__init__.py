"""Everything kakusan shows: grids, strips, curves, animations, pages and PNG records, in one visual style."""
