"""The scheduler's plugins, one a module, named and weighted as upstream's."""
