"""The package on disk, NAME.nemu: its manifest, its files and their hashes, its parity figures."""
