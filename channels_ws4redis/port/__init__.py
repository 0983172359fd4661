"""``python -m channels_ws4redis.port``: code of django-websocket-redis on this package. Private.

`files` knows which files there are, `module` how Python is rewritten, and `texts` which texts in
Python name the package. Nothing of the project is imported, and no settings are read.
"""
