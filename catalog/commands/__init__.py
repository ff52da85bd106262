"""The commands of `hft` by theme; `catalog.cli` mounts them."""
