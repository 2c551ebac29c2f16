"""The package as a build writes it: pack, attach engines, fit the level, describe."""
