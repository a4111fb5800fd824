"""Whole small programs, drawn, run by eager and by us, and compared. See __main__ and drawing."""
