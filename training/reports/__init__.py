"""Reports on runs, ablations, evaluations and data sets, as pages, pictures and tables."""
