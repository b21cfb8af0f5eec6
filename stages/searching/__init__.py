"""What the search stage does beside the search itself: processes, files, pictures."""
