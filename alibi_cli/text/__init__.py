"""Text: named documents from files, datasets or this package, and their tokens. The one place where text becomes tokens."""
