"""What every layer uses: parameters, files, errors, fingerprints, compilation, processes."""
