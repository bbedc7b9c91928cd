"""What members say to each other and what stands in the Raft log."""
