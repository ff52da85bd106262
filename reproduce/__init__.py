"""Reproduction harness of HFT Atlas: one module per paper, one loop for all of them."""
