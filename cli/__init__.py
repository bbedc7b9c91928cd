"""The raftsman command and the composition of components into processes."""
