"""Points and tables: read, scaled, kept on disk. (`cli/writers.py` writes them.)"""
