"""Statistics of the meta-analysis: effects of single arms and of pairs, later pooling."""
