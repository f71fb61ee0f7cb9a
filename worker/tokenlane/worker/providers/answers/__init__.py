"""Reading answers, whichever dialect they come in."""
