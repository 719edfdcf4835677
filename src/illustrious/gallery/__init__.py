"""Pictures on disk, and a row for each."""
