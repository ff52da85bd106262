"""Files that name papers, read into candidates: BibTeX, RIS, CSV and Markdown lists."""
