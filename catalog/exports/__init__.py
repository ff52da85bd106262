"""The catalogue and the records in the formats others read, and the dictionary of their columns."""
