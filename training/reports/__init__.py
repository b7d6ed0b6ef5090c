"""Reports: what a finished run, an ablation or a data set looks like, as pages, pictures and tables."""
