"""The example project of the legacy package's manual, run by the legacy package and by this one.

``settings``, ``urls``, ``views``, ``subscribers`` and the templates know the name ``ws4redis`` only
and run on Django 3.2 as well as on today's. ``wsgi`` is how the legacy package serves them.
``ported`` and ``asgi`` are all that a project adds to have them served by this package.
"""
