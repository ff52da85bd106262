"""Where facts about papers come from: arXiv, Crossref, OpenReview, Semantic Scholar. Each fails soft and says so."""
