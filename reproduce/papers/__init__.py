"""One file per paper; the file name carries its arXiv id."""
