"""Small model definitions and the embedded demo."""
