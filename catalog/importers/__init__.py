"""Files that name papers, read into candidates: BibTeX, RIS, CSV, our own JSON, and Markdown lists."""
