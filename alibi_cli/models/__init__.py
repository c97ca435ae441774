"""Models from anywhere: a folder, the Hub or memory; what family they are of, and loading them."""
