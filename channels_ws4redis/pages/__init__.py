"""Where the channels of a page stand, for stamps and the template tag. Private."""
