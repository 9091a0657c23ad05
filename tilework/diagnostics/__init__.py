"""What can be known of a computation: before it (explain, visualize), during it (progress), after it (report)."""
