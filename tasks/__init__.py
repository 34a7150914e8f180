"""The stages: files, processes and tracking around ``ssl_core``."""
