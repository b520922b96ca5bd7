"""Numbers about predictions and data: metrics, intervals, drift, overlap, lineage."""
