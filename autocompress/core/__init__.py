"""Pure types and maths: imports the standard library and numpy only."""
