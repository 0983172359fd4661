"""The demo's app: a chat, a live dashboard, and the pages of a typical legacy project."""
