"""Points and tables: read, scaled, kept on disk, written."""
