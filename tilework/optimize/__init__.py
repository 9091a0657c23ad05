"""From a plan to stages: rules as data, applied by one ordered pipeline, then grouping and lowering."""
