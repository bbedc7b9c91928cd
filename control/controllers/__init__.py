"""The control loops: pure reconcilers and the runner that drives them."""
