"""Many rasters, or one huge one, on the workers of a Dask cluster."""
