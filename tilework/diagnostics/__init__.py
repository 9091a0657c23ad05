"""What can be known of a computation: before it runs (explain, visualize), while it runs (progress) and after (report)."""
