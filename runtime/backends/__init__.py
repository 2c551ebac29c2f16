"""Backends: what runs a package. `choice` opens one of them; all have the interface in `base`."""
