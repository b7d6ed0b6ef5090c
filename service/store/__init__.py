"""SQL and bytes: tables, the change log, the crops on disk, and the failures of both."""
