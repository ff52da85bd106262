"""What the workflows in .github do with text from strangers: read it as data, check it, and answer in files."""
