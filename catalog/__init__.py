"""Literature database, meta-analysis and generators of HFT Atlas; everything here works without torch."""
