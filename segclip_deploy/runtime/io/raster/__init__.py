"""GeoTIFF in, labels as Cloud-Optimized GeoTIFF out, in memory of a row of windows; needs rasterio."""
