"""The management commands of the package; each module is one."""
