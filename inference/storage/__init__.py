"""Large files of a share, read in parallel ranges to the local disk or into memory."""
