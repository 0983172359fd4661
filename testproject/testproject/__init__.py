"""The demo project; its settings are also the settings of the tests."""
