"""Who is timed on what; see README.md."""
