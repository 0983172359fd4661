"""The site that the end-to-end tests serve: the demo project with views that publish and fetch."""
