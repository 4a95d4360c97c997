"""Writing precision into an exported graph: INT8 as Q/DQ, FP16 as casts."""
